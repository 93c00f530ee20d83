"""Section 3 of the paper, in reading order: cooccurrence, ccd, vit, tcd, train, fcam, pseudo.

======  =======================  ===============================================
Eq. 1   ccd.judge                which candidate box of a component is accepted
Eq. 2   ccd.mask_image           the picture without the masked components
Eq. 3   vit.Projector            class tokens in the space of the texts
Eq. 4   vit.patch_attention      the map P of each component
Eq. 5   tcd.foreground           what a map cuts out
Eq. 6   tcd.background           what is left
Eq. 7   nets.vlm: text           the text vectors
Eq. 8   tcd.positive_class       class token towards its text
Eq. 9   tcd.positive_foreground  foreground towards its text
Eq. 10  tcd.positive             both together
Eq. 11  tcd.negative_class       class token away from the other texts
Eq. 12  tcd.negative_foreground  foreground away from the other texts
Eq. 13  tcd.negative_background  background away from the component's text
Eq. 14  tcd.negative             the three together
Eq. 15  tcd.regularisation       the area of the maps
Eq. 16  tcd.total                the overall objective
======  =======================  ===============================================
"""
