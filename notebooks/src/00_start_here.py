# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 00 Start here: faces, parts, and labels without places
#
# **Afterwards you can**
#
# * say what weakly supervised face parsing is, and find your way through the nine notebooks;
# * see with one call what your machine has and lacks;
# * read a label map of 19 classes, and say which eye is the *left* one (there are two answers);
# * do a task and check it.
#
# **Time** 35 minutes to read and do, about 30 seconds to run.
# **Needs** nothing but the package; no GPU, no network, no account.

# %% [markdown]
# ## In words
#
# *Face parsing* gives every pixel of a face a name: skin, nose, left eye, hair, ... .  Networks learn it from pictures
# in which people have painted every pixel, minutes of work for each.  *Weakly supervised* face parsing learns from
# much less: a list of the parts that a picture shows.
#
# ```
# full supervision:  picture + a painted map of 19 colours
# weak supervision:  picture + "skin, nose, two eyes, two eyebrows, one ear, lips, hair, neck"
# ```
#
# The list says *what*, never *where*; finding the places is the task.  This course follows one paper, DisFaceRep
# (Wang et al., ACM Multimedia 2025), from that list to a parser:
#
# ![The way of the course: a picture and its list; 01 what lists teach; 02 CCD hides parts and strikes them off the
# list; 03 TCD lets words judge the maps; 04 maps; 05 pseudo labels; 06 a parser learns from them; 07 other faces and
# real people](figures/course.svg)

# %% [markdown]
# | notebook | what you will see | paper | to read and do | to run |
# |---|---|---|---|---|
# | 00 start here | the classes, the sides, one face | 3.1 | 35 min | 0.5 min |
# | [01 co-occurrence](01_cooccurrence.ipynb) | why the label table teaches little | 3.1, Fig. 1 | 45 min | 0.5 min |
# | [02 CCD](02_ccd.ipynb) | detection, a filter that knows left from right, masked faces | 3.3 | 60 min | 1 min |
# | [03 TCD](03_tcd_training.ipynb) | the losses, and a training that you watch | 3.2, 3.4 | 110 min | 2 min |
# | [04 FCAMs](04_fcams.ipynb) | maps of every part, an explorer | 3.1, Fig. 3, 5 | 65 min | 1 min |
# | [05 pseudo labels](05_pseudo_labels.ipynb) | from maps to masks | 3.1, 4.1 | 75 min | 1 min |
# | [06 parser](06_parser.ipynb) | what a second network repairs | 4.1, Table 1 | 60 min | 2 min |
# | [07 cross-dataset](07_cross_dataset.ipynb) | other faces, real people, fairness | 4.2, Table 2 | 65 min | 1 min |
# | [08 nine ways](08_nine_ways.ipynb) | every compared system, on two faces | 4.2, Fig. 3, Table 1 | 75 min | 1 min |
#
# They build on each other in what you know, not in what they compute: each one runs alone.  The minutes are estimates,
# about half of them for the tasks; nobody has stood beside you with a watch.

# %%
import numpy as np

from wsfp_helpers.common.pictures import flip_image
from wsfp_helpers.data.frl import find_frl_london, frl_london
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, LAPA, flip_label_map
from wsfp_helpers.notebook import explorers
from wsfp_helpers.notebook.checks import nb00 as checks
from wsfp_helpers.notebook.exercises import checking
from wsfp_helpers.notebook.ladder import two_faces
from wsfp_helpers.notebook.plots import bars, face_and_map, gallery, overlay, show
from wsfp_helpers.notebook.quiz import quiz
from wsfp_helpers.palette import DEFICIENCIES, PALETTE, simulate_deficiency
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.tooling.doctor import examine, report
from wsfp_helpers.tooling.ladder import stored_scores

# %% [markdown]
# ## One face
#
# The first face of the validation split, its label map, and both on top of each other.

# %%
faces = synthfaces("celeb/val")
face, truth = faces.image(0), faces.label_map(0)  # (160, 160, 3) and (160, 160), both uint8
print(f"{faces.name}: {len(faces)} faces of {face.shape}; {faces.licence}")
assert truth.shape == face.shape[:2] and truth.max() < len(CELEBAMASK)

# %%
show(face_and_map(face, truth, title="A rendered face and what every pixel is"), alt=(
    "Three panels: a rendered face, the same face in flat colours by part, and both blended; a legend names the parts."
))  # fmt: skip

# %% [markdown]
# **Is everything here?**  The *doctor* looks at versions, machine, data and weights.  Here it names gaps only, each
# with its cure; `wsfp doctor` in a terminal shows all that it looked at, also what is optional.

# %%
gaps = [finding for finding in examine() if finding.state == "gap"]
print(report(gaps) if gaps else "the course has all that it needs")
assert not gaps, "mend what is marked with ! first"

# %% [markdown]
# That map is what *full* supervision would show to a network.  What this course may use is one row of a table:

# %%
row = faces.labels[0]  # (18,): 1 where the face has the part
print("has:  ", ", ".join(name for name, there in zip(COMPONENTS, row, strict=True) if there))
print("lacks:", ", ".join(name for name, there in zip(COMPONENTS, row, strict=True) if not there))
assert all((truth == k + 1).sum() >= 10 for k in np.flatnonzero(row))

# %% [markdown]
# To be sure that nothing else slips in, the training stages are given a `WeakFaces`, which *cannot* reach the maps:

# %%
weak = faces.weak
print("label maps reachable:", hasattr(weak, "label_map"))
assert hasattr(faces, "label_map") and not hasattr(weak, "label_map")

# %% [markdown]
# ## How tasks work
#
# Each notebook has four to seven.  A task says what kind it is: *predict, then run* (commit yourself, then see),
# *break it and see*, or *write it*.  The first cell has a gap; fill it in, run it, then run the check below, which says
# what is wrong with an answer.  Two hints are folded above it, a solution below, which leaves your answer as it is,
# also when all cells are run at once.  An open task stops nothing.

# %% [markdown]
# ### Task 1: the largest parts
#
# *Predict, then run · 3 minutes · easy*
#
# Which three components cover most of the picture above? Look at the label map, and set `guess` to a set of three short
# names, such as `{"nose", "l_eye", "mouth"}`. The names are in the list that was printed.
#
# <details><summary>Hint 1</summary>Leave the background aside, and look at areas, not at what catches the
# eye.</details>
#
# <details><summary>Hint 2</summary>The outline of a head encloses two large regions; the third is below or on
# it.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
guess = set(sorted(COMPONENTS, key=lambda name: -(truth == CELEBAMASK.index(name)).sum())[:3])
# END SOLUTION

# %% tags=["check"]
with checking("Task 1"):
    checks.largest(guess, truth)

# %%
shares = [100 * (truth == CELEBAMASK.index(name)).mean() for name in COMPONENTS]
figure = bars({"share": shares}, COMPONENTS, "How much of the picture each part covers", "percent of the pixels")
show(figure, alt="Bars: skin and hair large, neck and clothes some percent, eyes, brows, lips and nose very small.")

# %% [markdown]
# ### Task 2: the list from the map
#
# *Write it · 6 minutes · easy*
#
# Write the list of parts that weak supervision would be given: from a label map `(H, W)` the 18 labels, 1 where a part
# has at least 10 pixels. (The data set's own lists were made so.)
#
# <details><summary>Hint 1</summary><code>(label_map == 3).sum()</code> counts the pixels of class 3. Which class is
# component 0?</details>
#
# <details><summary>Hint 2</summary>Component k is class k + 1, for class 0 is the background. One line: a list over
# <code>range(18)</code>, with <code>&gt;=</code>.</details>


# %% tags=["exercise"]
def image_labels(label_map):
    # BEGIN SOLUTION
    return np.array([(label_map == k + 1).sum() >= 10 for k in range(len(COMPONENTS))])
    # END SOLUTION


# %% tags=["check"]
with checking("Task 2"):
    checks.image_labels(image_labels, faces)

# %% [markdown]
# ## Two worlds
#
# The method of the paper needs 24,183 photographs of celebrities (for research only), three large pretrained models
# and a GPU.  None of them fits into a course that should run on any laptop.  So everything exists twice, behind the
# same calls:
#
# | | **embedded** (default, shipped) | **full size** (`profile("paper")`, your own copies) |
# |---|---|---|
# | faces | SynthFaces-19: 1,902 rendered faces with exact maps, CC0 | CelebAMask-HQ; LaPa and Helen for transfer |
# | features | eight frozen blocks of a small DINOv2 | DeiT-S/16, trained whole, 448 px |
# | detector | 5 parts, learnt on rendered faces | Grounding DINO |
# | words and pictures | mini-FLIP, a few MB | FLIP-B/16, 150 M parameters |
# | parser | a light decoder | DeepLab-V1 with ResNet38 |
# | time | minutes on two cores | hours on a GPU |
#
# Numbers of the two worlds must never be compared as if they were the same: other data, other models.  What can be
# compared is the *story*: which step helps, which class fails, and why.
#
# **Who has seen what.**  "Without masks" is a claim about each part of a system.  In the embedded world:
#
# | part | pictures | what it was told of them |
# |---|---|---|
# | trunk (DINOv2) | millions of photographs | nothing |
# | detector | rendered faces of `celeb/pretrain` | boxes, made from their label maps |
# | mini-FLIP | the same faces | captions that name the parts in sight, made from their label maps |
# | networks of notebook 03 | 686 faces of `celeb/train`, other people | lists of parts, detected boxes, mini-FLIP |
# | plain parser (the ladder's) | the same 686 | labels of one of these networks, no label map |
# | weak parser | the same 686 | labels made of all these, no label map |
# | supervised parser | the same 686 | their label maps |
#
# So no label map of a training face is ever used, but two helpers have learnt from the label maps of *other* faces,
# where Grounding DINO and FLIP have learnt from the web.  How much that is worth is measured, too: a mini-FLIP that was
# told lists only is no help ([experiments](../docs/experiments.md)).

# %% [markdown]
# ## The classes
#
# Eighteen components and the background, in the order of CelebAMask-HQ.  The short names are those of the data set's
# files.  Three are traps: `l_lip` is the **lower** lip (not a left one), `mouth` is the **inner** mouth, visible only
# when it is open, and `ear_r` is the ea**rr**ing (not the right ear, which is `r_ear`).

# %%
for k, (name, words) in enumerate(zip(CELEBAMASK.classes, CELEBAMASK.words, strict=True)):
    print(f"{k:2d} {name:12} {words:16}", end="\n" if k % 3 == 2 else "")
assert CELEBAMASK.index("l_lip") == 12 and CELEBAMASK.words[12] == "lower lip"

# %% [markdown]
# Nineteen colours are many, and one man in twelve does not see all of them.  The palette was searched for so that
# neighbours on a face stay apart for everybody.  Here is the same map as people with three kinds of colour blindness
# see it.

# %%
painted = PALETTE[truth]  # (160, 160, 3)
versions = [painted, *(simulate_deficiency(painted, kind) for kind in DEFICIENCIES)]
figure = gallery(versions, ["usual sight", *DEFICIENCIES], "One label map, four ways to see it", columns=4, size=2.4)
show(figure, alt="The label map in usual colours and simulated for three deficiencies; all parts stay distinct.")

# %% [markdown]
# The colours change, the borders stay.  Skin and nose, lips and mouth, hair and background differ in lightness too,
# so that even a grey print can be read.

# %% [markdown]
# ## Left and right
#
# Whose left?  CelebAMask-HQ (and SynthFaces) name sides from the **person in the picture**: `l_eye` is her left eye,
# which lies on the *right* half of a frontal picture.  LaPa and Helen name them from the **viewer**.  One function
# knows:

# %%
for scheme, name in ((CELEBAMASK, "l_eye"), (LAPA, "left_eye")):
    print(f"{scheme.name:11} sides of the {scheme.side:8}: {name:9} lies on the {scheme.picture_half(name)} half")
columns = np.flatnonzero((truth == CELEBAMASK.index("l_eye")).any(0))
print(f"in our face l_eye covers the columns {columns.min()} to {columns.max()} of {truth.shape[1]}")
assert columns.mean() > truth.shape[1] / 2

# %% [markdown]
# Forgetting this costs dearly.  A parser that is perfect but names the wrong side loses *all* of its score on eyes,
# brows and ears, and an average hides why.  The same trap opens when a picture is **mirrored**, which nearly every
# training does: the mirror image of a left eye is a right eye, so the classes must be exchanged along with the pixels.

# %%
mirrored = flip_image(face)
naive = flip_image(truth)  # pixels moved, classes kept: wrong
exchanged = flip_label_map(truth)  # pixels moved, left and right exchanged
pictures = [overlay(face, truth), overlay(mirrored, naive), overlay(mirrored, exchanged)]
titles = ["as it is", "mirrored, classes kept: wrong", "mirrored, sides exchanged"]
show(gallery(pictures, titles, "The colour of an eye says which side it is", columns=3, size=2.9), alt=(
    "A face with its map; mirrored with the left eye's colour on the wrong side; mirrored with colours exchanged."
))  # fmt: skip

# %% [markdown]
# Compare the two eyes in the three panels: in the middle one the colour of `l_eye` sits on the left half, where a
# frontal face has its right eye.  None of the code bases that this field builds on exchanges the sides.  What *is*
# the cost?  Score the naive map against the right one, class by class (F1 = 2 x overlap / sum of areas).

# %% [markdown]
# ### Task 3: who loses
#
# *Predict, then run · 3 minutes · medium*
#
# The naive map of the middle panel is scored against the right one. Which components have an F1 of about zero? Set
# `lost` to a set of short names, for a face that has all parts.
#
# <details><summary>Hint 1</summary>A part without a side is where it should be, and has its own name.</details>
#
# <details><summary>Hint 2</summary>There are three pairs. Mind the three traps of the names, above.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
lost = {first for pair in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")) for first in pair}
# END SOLUTION

# %% tags=["check"]
with checking("Task 3"):
    checks.lost_by_mirror(lost)


# %%
def f1(prediction, target, k):
    both = ((prediction == k) & (target == k)).sum()
    return 100 * 2 * both / ((prediction == k).sum() + (target == k).sum())


present = [k for k in range(1, len(CELEBAMASK)) if (exchanged == k).any()]
scores = [f1(naive, exchanged, k) for k in present]
figure = bars(
    {"naive": scores}, [CELEBAMASK.classes[k] for k in present], "Mirrored without exchanging sides", "F1 (%)"
)
show(figure, alt="Bars: 100 percent for unsided classes, about zero for eyes, eyebrows and ears.")
assert min(scores) < 5 and f1(naive, exchanged, CELEBAMASK.index("l_lip")) == 100

# %% [markdown]
# Sided classes score nothing, all others are perfect, `l_lip` among them: it is the lower lip, and mirroring leaves it
# where it is.

# %% [markdown]
# ## Where the course ends
#
# A parser that never saw a painted map of a training face is shipped with the package.  Here is what it says about the
# face above, and about a real person: the astronaut Eileen Collins, a photograph by NASA in the public domain that
# comes with scikit-image.  (The other shipped parser, `"supervised"`, saw the painted maps of the rendered faces.)

# %%
parser = load_parser("weak")
portrait = astronaut()  # (208, 208, 3)
found, confidence = parser.predict(portrait)  # (208, 208) uint8 and float32
guess, _ = parser.predict(face)
assert found.shape == portrait.shape[:2] and 0 <= confidence.min() <= confidence.max() <= 1

# %%
figure = gallery(
    [overlay(face, truth), overlay(face, guess), portrait, overlay(portrait, found)],
    ["rendered: truth", "rendered: weak parser", "photograph (NASA)", "photograph: weak parser"],
    "Learnt from lists of parts, boxes and words", columns=4, size=2.4,
    classes=np.unique([k for k in np.union1d(guess, found) if k]),
)  # fmt: skip
show(figure, alt="A rendered face with true and predicted parts; a photograph of an astronaut and its predicted parts.")

# %% [markdown]
# **The ladder.**  The same two faces through every step of the course: the baseline, + CCD (notebook 02), + TCD (03),
# and three parsers (06): one learnt from the labels of + TCD as they are, one from better labels made with boxes, one
# from masks.  Move the slider, and choose a part: its map stands above, all labels below.  The score in the title is
# not of these two faces but the stored one of many, with the split that it is from.  (The first three steps are told
# which parts each picture shows, the parsers are not.  Each parser was trained once, the plain one as those of Table 1,
# which has three seeds of it on labels of its own settings: {{table1 | DisFaceRep: test}}.)

# %%
pair = two_faces()
scores = {step: f"mean F1 {score} ({of_what})" for step, (score, of_what) in stored_scores().items()}
explorers.ladder(pair, pair.ids, scores)

# %% [markdown]
# Look for mistakes, they are the interesting part: where does skin end, which small parts are lost, what happens to
# the suit, a thing that no rendered face ever wore?  Notebook 07 measures it.
#
# For real people with known parts there is FRL London, 102 consented adults with 189 points placed by hand on each
# (DeBruine and Jones 2017, CC BY 4.0).  It is not part of the package; `wsfp data get frl-london` fetches it once.

# %%
if find_frl_london() is None:
    print("No copy of FRL London here: `wsfp data get frl-london` (38 MB). Measured results are in docs/results/.")
else:
    people = frl_london().subset([7])
    show(face_and_map(people.image(0), people.label_map(0), title=people.licence), alt=(
        "A photograph of a person, and the parts drawn from 189 points: eyes, brows, nose, lips, skin; grey is ignored."
    ))  # fmt: skip

# %% [markdown]
# Grey (class 255) means *ignored*: the points say nothing about hair or clothes, so nobody is scored there.

# %% [markdown]
# ### Task 4: a lazy parser
#
# *Break it and see · 5 minutes · easy*
#
# A lazy parser knows three classes: it gets hair, skin and background right, and calls everything else skin. Two
# numbers are in use: *pixel accuracy*, the share of right pixels, and *mean F1*, the mean over the classes. What will
# they say? Set `verdict` to one of `"both high"`, `"both low"`, `"accuracy high, mean F1 low"`, `"accuracy low, mean F1
# high"`; then run the cell behind the check.
#
# <details><summary>Hint 1</summary>How many of the pixels of a face are eyes, brows, lips and nose together? See the
# bars of task 1.</details>
#
# <details><summary>Hint 2</summary>One number counts pixels, the other counts classes, and fifteen classes have not one
# pixel right.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
verdict = "accuracy high, mean F1 low"
# END SOLUTION

# %% tags=["check"]
with checking("Task 4"):
    checks.lazy_parser(verdict)

# %%
known = [CELEBAMASK.index("skin"), CELEBAMASK.index("hair")]
lazy = np.where((truth == 0) | np.isin(truth, known), truth, known[0])
mean = np.mean([f1(lazy, truth, k) for k in range(1, len(CELEBAMASK)) if (truth == k).any()])
print(f"right pixels {100 * (lazy == truth).mean():.1f} %, mean F1 over the parts of this face {mean:.1f}")
assert (lazy == truth).mean() > 0.7 and mean < 30

# %% [markdown]
# That is why this course, as the paper, reports mean F1, and why a table by class stands behind every mean.

# %% [markdown]
# ## Five questions
#
# Click on the answer that you would give: it says whether it is right, and why.

# %%
quiz("00")

# %% [markdown]
# ## Before you use this on people
#
# A parser says where parts of a face are.  It does not say who a person is, what they feel, or what they are like, and
# nothing here should be used as if it did.  Rendered training faces are young, smooth and few in kind; notebook 07
# shows how the errors differ between groups of real people, as far as 102 of them can tell.  Parse photographs of
# people who agreed to it.
#
# **Next:** [01 Co-occurrence](01_cooccurrence.ipynb).
