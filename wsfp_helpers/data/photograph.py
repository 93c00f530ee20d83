"""One real face without any download: a public-domain photograph inside scikit-image."""

import numpy as np
import skimage.data


def astronaut(whole: bool = False) -> np.ndarray:
    """Face of the astronaut Eileen Collins, NASA, public domain: ``(208, 208, 3)`` uint8, framed as in CelebA-HQ.

    ``whole`` gives the photograph ``(512, 512, 3)`` instead.  The file is part of the scikit-image package.
    """
    photograph = skimage.data.astronaut()
    return photograph if whole else photograph[4:212, 122:330].copy()
