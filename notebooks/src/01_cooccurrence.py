# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 Co-occurrence: a label table that says almost nothing
#
# **Afterwards you can**
#
# * read a table of image-level labels as four numbers: class frequency, conditional, lift, and bits;
# * say why a face data set is a bad teacher where PASCAL VOC is a good one (Fig. 1 of the paper);
# * show, with a real training, why a label that is always 1 cannot tell *where* its class is.
#
# **Time** 45 minutes to read and do, about 40 seconds to run.
# **Needs** nothing but the package.
# **Paper** section 3.1 and Fig. 1 (c).

# %% [markdown]
# ## In words
#
# A weakly supervised method sees pictures and, for each, a list of what is on it: *there is a nose, there is hair,
# there are no glasses*.  Nobody says where.  The hope is that the classifier finds out by itself.  If pictures with a
# dog differ from pictures without one only by the dog, then whatever the classifier uses to say *dog* must be on the
# dog.  Its evidence, drawn as a map, is a rough outline of the dog.
#
# The hope rests on **contrast**: pictures with the class and pictures without it.  Think of a table with one row
# per picture and one column per class:
#
# ```
#            dog  car  sofa             skin  nose  l_eye  mouth
# picture 1   1    0    0                1     1     1      0
# picture 2   0    1    0                1     1     1      1
# picture 3   1    0    1                1     1     1      0
# picture 4   0    0    1                1     1     0      1
# ```
#
# On the left every column has zeros and ones.  On the right two columns are constant, and a constant column divides
# nothing.  Worse, constant columns are *equal* columns: nothing in the table distinguishes skin from nose.  The paper
# calls this **intra-dataset co-occurrence**.  (Its second problem, parts that look alike such as the two eyes, is
# *intra-image* co-occurrence, and comes in notebook 02.)

# %% [markdown]
# ## The table itself
#
# Our training set is `celeb/train` of SynthFaces-19: rendered faces, so that we know the truth to the pixel, but here
# we take only what a weakly supervised method may see.  `.weak` leaves the label maps behind.

# %%
from textwrap import fill

import numpy as np
import torch

from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import COMPONENTS, K
from wsfp_helpers.method import cooccurrence as co
from wsfp_helpers.nets.trunk import as_grid, features, load_trunk
from wsfp_helpers.notebook import explorers
from wsfp_helpers.notebook.checks import nb01 as checks
from wsfp_helpers.notebook.exercises import checking
from wsfp_helpers.notebook.plots import bars, fcam_sheet, gallery, heatmap, show
from wsfp_helpers.notebook.quiz import quiz

# %%
faces = synthfaces("celeb/train").weak
labels = faces.labels  # (n, K): one row per picture, one column per class
assert labels.shape == (len(faces), K) and not hasattr(faces, "label_map")
print(f"{faces.name}: {len(faces)} pictures, {K} classes, {labels.sum(1).mean():.1f} labels per picture")

# %% [markdown]
# Each picture has more than twelve of the eighteen classes.  Twelve pictures, drawn at random, show that the table is
# not wrong: the people differ in everything *except* in which parts they have.

# %%
chosen = np.random.default_rng(0).choice(len(faces), 12, replace=False)
missing = [", ".join(c for c, y in zip(COMPONENTS, labels[i], strict=True) if not y) for i in chosen]
figure = gallery(
    [faces.image(i) for i in chosen],
    [fill(text, 24) for text in missing],
    "Twelve training faces, and the classes that each does not have",
)
show(figure, alt="Twelve rendered faces; above each the few classes it lacks, mostly glasses, hat, necklace and ears.")

# %% [markdown]
# What a face *lacks* is a short list, and it is nearly always the same one: glasses, hat, necklace, an ear behind the
# hair, an open mouth.  Those are the only classes that the labels can teach something about.

# %% [markdown]
# ### Task 1: equal columns
#
# *Predict, then run · 3 minutes · easy*
#
# Two classes whose columns are *equal* cannot be told apart by anything that learns from the table. Name two: `twins =
# ("...", "...")`. Think of what every face has.
#
# <details><summary>Hint 1</summary>Two columns that are nearly equal are not equal: a single face with one ear tells
# the two ears apart.</details>
#
# <details><summary>Hint 2</summary>Which parts can neither be hidden by hair nor turned away?</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
twins = ("skin", "nose")
# END SOLUTION

# %% tags=["check"]
with checking("Task 1"):
    checks.equal_columns(twins, labels)

# %% [markdown]
# ## Class frequency
#
# The simplest number: the share of pictures that have class $k$,
#
# $$P(k) = \frac{1}{n}\sum_{i=1}^{n} y_{ik}.$$
#
# All statistics start from the counts of pictures that have $k$ **and** $l$, a $K \times K$ matrix with the single
# classes on its diagonal.

# %%
counts = co.joint_counts(labels)  # (K, K)
frequency = co.class_frequency(counts, len(faces))  # (K,)
figure = bars({"SynthFaces train": frequency}, COMPONENTS, "How often each class occurs", "share of pictures")
show(figure, alt="Skin, nose, brows, lips, hair, neck near 1; ears, mouth near one half; glasses, hat, necklace low.")

# %%
always = [c for c, p in zip(COMPONENTS, frequency, strict=True) if p > 0.99]
print(f"{len(always)} of {K} classes are in more than 99 % of the pictures: {', '.join(always)}")
assert {"skin", "nose"} <= set(always)

# %% [markdown]
# Fig. 1 (c) of the paper says the same of CelebAMask-HQ: *skin and nose appear in over 99 % of images*.  The bars fall
# into three groups: always there (no contrast), about half (ears, mouth: as many faces with as without), and rare
# (glasses, hat, necklace: contrast, but only some fifty examples).

# %% [markdown]
# ## Bits
#
# How much does one label tell?  Information theory answers with the binary entropy,
#
# $$H(k) = -P(k)\log_2 P(k) - (1-P(k))\log_2(1-P(k)),$$
#
# one bit for a coin, nothing for a certainty.

# %% [markdown]
# ### Task 2: the label that tells most
#
# *Predict, then run · 2 minutes · easy*
#
# Look at the bars above: which class has the label that tells most? Set `best` to its short name.
#
# <details><summary>Hint 1</summary>Not the rarest and not the most frequent: what is hardest to guess?</details>
#
# <details><summary>Hint 2</summary>The frequency that is nearest to one half wins.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
best = "mouth"
# END SOLUTION

# %% tags=["check"]
with checking("Task 2"):
    checks.most_bits(best, co.label_information(frequency))

# %%
bits = co.label_information(frequency)  # (K,)
print(f"sum over the classes {bits.sum():.1f} bits, whole label set {co.label_set_entropy(labels):.1f} bits, of 18")
print(f"{len(np.unique(labels, axis=0))} different label sets among {len(labels)} pictures")
assert bits[COMPONENTS.index("skin")] == 0 and bits.sum() < 9

# %%
figure = bars({"bits": bits}, COMPONENTS, "What one label tells", "bits")
show(figure, alt="Bars of bits: three classes, the ears and the mouth, near one bit; eight classes practically zero.")

# %% [markdown]
# Eighteen labels per picture, and together they tell less than seven bits.  Two thirds of that are about ears, mouth,
# earrings and clothes; the rest comes from glasses, hat, necklace, eyes and hair.  About skin and nose, the two largest
# parts inside the face, the table tells *zero* bits: you could have written the column without opening a picture.

# %% [markdown]
# ## Conditional and lift
#
# Which classes come together?  Row $k$, column $l$ of the **conditional** is the share of pictures with $k$ that also
# have $l$:
#
# $$P(l \mid k) = \frac{n_{kl}}{n_{kk}}.$$

# %%
given = co.conditional(counts)  # (K, K)
print(f"mean of P(l | k) over all pairs: {co.mean_conditional(counts):.2f}")
assert co.mean_conditional(counts) > 0.6

# %%
figure = heatmap(
    given, COMPONENTS, COMPONENTS, "Of the faces that have the row, how many have the column", "P(column | row)",
    "given", "present",
)  # fmt: skip
show(figure, alt="Heat map: whole columns near 1 for skin, nose, brows, lips, hair, neck; few low columns.")

# %% [markdown]
# The map has stripes, not blocks.  A bright *column* says: this class is there whatever else is.  So a high
# conditional is not yet a relation between two classes.  **Lift** divides the frequency out:
#
# $$\mathrm{lift}(k,l) = \frac{P(k,l)}{P(k)\,P(l)},$$
#
# 1 when the two know nothing of each other, above 1 when they attract, below 1 when they avoid each other.

# %%
names = [c for c, p in zip(COMPONENTS, frequency, strict=True) if p < 0.99]
index = [COMPONENTS.index(c) for c in names]
assert np.allclose(co.lift(counts, len(faces))[0], 1), "a class that is always there has lift 1 with everything"

# %%
table = co.lift(counts, len(faces))[np.ix_(index, index)].clip(max=2)
figure = heatmap(table, names, names, "Lift of the classes that are not always there", "lift (2: 2 or more)", centre=1)
show(figure, alt="Heat map: nearly white off the diagonal, dark where glasses meet eyes and hat meets necklace.")

# %% [markdown]
# Off the diagonal the table is pale: apart from their frequency the classes hardly know each other.  The exceptions
# make sense.  Glasses exclude eyes (lift near 0), because CelebAMask-HQ's convention gives the pixels behind a lens to
# the glasses.  Left and right eye go together.  Hat and glasses come together somewhat more often than by chance; with
# about fifty pictures each that is a handful of faces.  No face has both hat and necklace: three were to be expected,
# so this may be chance.  And the classes left out of this figure have lift 1 with everything: *always there*
# means *independent of everything*, and so of no use as evidence.  Choose a class and see both numbers side by side:

# %%
explorers.co_occurrence(labels)

# %% [markdown]
# ## The contrast: a table like PASCAL VOC's
#
# The organisers of VOC 2007 published how many of the 5,011 pictures of its trainval set show each of twenty classes.
# We type the counts in.  (They published no counts of pairs, so we look at frequency, bits and imbalance.)

# %%
VOC_IMAGES = 5011
VOC = {
    "aeroplane": 238, "bicycle": 243, "bird": 330, "boat": 181, "bottle": 244, "bus": 186, "car": 713, "cat": 337,
    "chair": 445, "cow": 141, "table": 200, "dog": 421, "horse": 287, "motorbike": 245, "person": 2008, "plant": 245,
    "sheep": 96, "sofa": 229, "train": 261, "tv": 256,
}  # fmt: skip
voc = np.array(list(VOC.values())) / VOC_IMAGES  # (20,)

# %%
figure = bars({"VOC 2007 trainval": voc}, list(VOC), "The same picture for PASCAL VOC", "share of pictures")
show(figure, alt="Bars: person in 40 percent of the pictures, all nineteen other classes between 2 and 14 percent.")

# %%
rows = {"SynthFaces": (frequency, labels.sum(1).mean()), "PASCAL VOC": (voc, voc.sum())}
print(f"{'':12}{'labels/picture':>15}{'of classes':>12}{'always there':>14}{'bits/label said':>17}{'imbalance':>11}")
for name, (p, present) in rows.items():
    told = co.label_information(p).sum() / present
    print(f"{name:12}{present:15.2f}{len(p):12d}{(p > 0.99).sum():14d}{told:17.2f}{co.imbalance(p):11.2f}")
assert voc.sum() < 1.5 < 12 < labels.sum(1).mean()

# %% [markdown]
# A picture of VOC has one or two of twenty classes, a face has twelve or thirteen of eighteen.  With 1.5 labels
# per picture, two classes *cannot* meet often, whatever the pairs are: given one label, there is on average half a
# label left for all nineteen others.  Each label given in VOC tells more than four bits, in the faces half a bit.
# (The *imbalance*, a Gini coefficient of the frequencies, is even lower for faces: most of the classes are equally
# frequent, namely always there.  Imbalance between classes is not the problem; the lack of zeros is.)
#
# This is the paper's Fig. 1 in numbers: methods that were built for VOC meet a table of another kind.

# %% [markdown]
# ## What that does to a training
#
# Now a real one, as small as possible.  Each picture becomes 400 patches with 384 numbers each (the features of the
# frozen trunk, notebook 03).  The classifier is one linear map from features to classes; the score of a picture is
# the mean over its patches,
#
# $$z_k = \frac{1}{400}\sum_{p} w_k^\top f_p + b_k,$$
#
# and the loss $\mathcal{L}$ is the sigmoid cross-entropy of $z_k$ and $y_k$, averaged over pictures and classes.
# The map of class $k$ is simply $w_k^\top f_p$ on the 20 x 20 grid.  We take 119 pictures: every second one with
# glasses or a hat, and every eighth of the others.

# %%
has = {name: labels[:, COMPONENTS.index(name)] == 1 for name in ("eye_g", "hat", "mouth", "l_ear")}
rare = np.flatnonzero(has["eye_g"] | has["hat"])
others = np.setdiff1d(np.arange(len(faces)), rare)
some = np.sort(np.r_[rare[::2], others[::8]])  # (119,)
print(f"{len(some)} pictures, {np.isin(some, rare).sum()} of them with glasses or hat")

# %%
tokens = features((faces.image(i) for i in some), load_trunk(), len(some)).float()  # (n, 400, 384)
targets = torch.tensor(labels[some], dtype=torch.float32)  # (n, K)
print(f"features {tuple(tokens.shape)}, targets {tuple(targets.shape)}")

# %% [markdown]
# ### Task 3: the classifier
#
# *Write it · 8 minutes · medium*
#
# Write the scores $z$ of this classifier from tokens `(n, 400, D)`, weight `(K, D)` and bias `(K,)`, as a tensor `(n,
# K)`.
#
# <details><summary>Hint 1</summary><code>tokens @ weight.T</code> has the shape (n, 400, K): a map for each
# class.</details>
#
# <details><summary>Hint 2</summary>The mean over the patches is <code>.mean(1)</code>; whether you take it of the maps
# or of the features first makes no difference.</details>


# %% tags=["exercise"]
def scores_of(tokens, weight, bias):
    # BEGIN SOLUTION
    return tokens.mean(1) @ weight.T + bias
    # END SOLUTION


# %% tags=["check"]
with checking("Task 3"):
    checks.classifier(scores_of)


# %%
mean_feature = tokens.mean(1)  # (n, 384): one vector per picture


def fit(targets):
    """Weight (K, 384) and losses after 150 steps on labels (n, K), from zero."""
    weight, bias = torch.zeros(K, tokens.shape[-1], requires_grad=True), torch.zeros(K, requires_grad=True)
    optimiser, losses = torch.optim.Adam([weight, bias], lr=0.02), []
    for _ in range(150):
        logits = mean_feature @ weight.T + bias  # (n, K)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return weight.detach(), losses


weight, losses = fit(targets)
assert losses[-1] < 0.5 * losses[0]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

# %% [markdown]
# The loss fell, and the classifier is nearly perfect on skin: it says *yes* to everything.  What did it look at?

# %%
evidence = tokens @ weight.T  # (n, 400, K)
low, high = evidence.amin(1, keepdim=True), evidence.amax(1, keepdim=True)
maps = as_grid((evidence - low) / (high - low)).numpy()  # (n, K, 20, 20), each from 0 to 1


def draw_maps(face, names):
    """Picture number `face` of the 119, and the maps of the named classes on it."""
    found = maps[face][[COMPONENTS.index(name) for name in names]]
    return fcam_sheet(faces.image(some[face]), found, names, "Maps of the linear classifier", columns=7)


# %%
both = has["mouth"][some] & has["l_ear"][some] & ~np.isin(some, rare)
show(draw_maps(np.flatnonzero(both)[0], ["skin", "nose", "u_lip", "l_lip", "mouth", "l_ear"]), alt=(
    "A face; the maps of skin, nose and both lips are one and the same picture; mouth and ear have maps of their own."
))  # fmt: skip

# %% [markdown]
# Four maps are the **same** map.  Not similar: equal to the last bit, because the four classes have equal columns, so
# they received equal gradients in every step.  Nothing in the labels could ever pull them apart.

# %%
skin, nose, ear = (weight[COMPONENTS.index(c)] for c in ("skin", "nose", "l_ear"))
print("skin and nose have equal weights:", torch.equal(skin, nose), "  skin and left ear:", torch.equal(skin, ear))
assert torch.equal(skin, nose) and not torch.equal(skin, ear)

# %% [markdown]
# Mouth and ear, with as many faces with as without, have maps of their own.  But are they *right*?  Now two faces with
# something rare:

# %%
for name in ("hat", "eye_g"):
    wearer = int(np.flatnonzero(has[name][some])[2])
    figure = draw_maps(wearer, ["hat", "eye_g"] if name == "hat" else ["eye_g", "hat"])
    show(figure, alt=f"A face with {name}: its map is brightest on it, and the other map lies elsewhere.")

# %% [markdown]
# The eye is easily persuaded, so we count.  Of each map, on the faces that have the class, we take the ten hottest of
# the 400 patches: how many lie on the part?  (The true places are for us only; the training never saw them.)

# %%
truth = np.stack([synthfaces("celeb/train").label_map(i) for i in some])  # (n, 160, 160)
patches = truth.reshape(-1, 20, 8, 20, 8).swapaxes(2, 3).reshape(len(some), 400, 64)  # pixels of each patch


def on_the_part(name, evidence):
    """Percent of the ten hottest patches that touch the part, and percent of all patches that do (chance)."""
    hottest = evidence.topk(10, dim=1).indices.numpy()  # (n, 10, K)
    k, faces_with = COMPONENTS.index(name), targets[:, COMPONENTS.index(name)] == 1
    touched = (patches[faces_with] == k + 1).any(2)  # (m, 400)
    return 100 * np.take_along_axis(touched, hottest[faces_with][..., k], 1).mean(), 100 * touched.mean()


# %%
names = ["hat", "eye_g", "mouth", "l_ear", "nose", "u_lip"]
hits, chance = np.array([on_the_part(name, evidence) for name in names]).T
figure = bars(
    {"ten hottest patches": hits, "chance": chance},
    names,
    "How much of a map's peak lies on its part",
    "percent of patches",
)
show(figure, alt="Bars: hat and glasses far above chance; mouth, ear, nose and lip at or below ten percent.")
assert min(hits[:2]) > 50 > 10 > max(hits[2:])

# %% [markdown]
# Hat and glasses are **found**, from their labels alone: a hat is large, and wearers differ from others by little else.
# Nose and lip, whose labels never change, are no better than chance.  And mouth and ear?  Their labels carry the most
# bits of all, and still the map is nearly nowhere on the part.  **Contrast is necessary, not enough.**  An open mouth
# is two patches of 400, so its trace in the *mean* feature is faint, and people with an open mouth also differ in the
# chin, people without an ear in their hair.  The classifier takes whatever helps.  CCD will make a cleaner contrast:
# faces that lack one small place and nothing else.

# %% [markdown]
# ### Task 4: a shuffled hat
#
# *Break it and see · 5 minutes · medium*
#
# Deal the labels of the hat out anew, at random: the column has as many ones as before, and as many bits. What becomes
# of the hat's map on people who do wear one? Set `after` to `"still on the hat"`, `"no better than chance"`, `"nothing
# on the map"` or `"on the hair"`; then run the cell behind the check.
#
# <details><summary>Hint 1</summary>Frequency and bits are those of the column alone. What tells the classifier
# where?</details>
#
# <details><summary>Hint 2</summary>It is the relation between column and pictures that carries the place, and that is
# what shuffling destroys.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
after = "no better than chance"
# END SOLUTION

# %% tags=["check"]
with checking("Task 4"):
    checks.shuffled_hat(after)

# %%
hat, shuffled = COMPONENTS.index("hat"), []
for seed in range(12):
    broken, order = targets.clone(), torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))
    broken[:, hat] = targets[order, hat]
    shuffled.append(on_the_part("hat", tokens @ fit(broken)[0].T)[0])
print("percent of the hottest patches on the hat, twelve shuffles:", *np.round(shuffled).astype(int))
print(f"mean {np.mean(shuffled):.0f}, chance {chance[0]:.0f}, with the right labels {hits[0]:.0f}")
assert np.mean(shuffled) < hits[0] - 30

# %% [markdown]
# One shuffle may be lucky, twelve are not: in the mean nothing but chance is left.
#
# And what is the one map of skin, nose and lips?  Look at the gradient.  With $\bar f_i$, the mean feature of picture
# $i$,
#
# $$\frac{\partial \mathcal{L}}{\partial w_k} = \frac{1}{nK}\sum_i \bigl(\sigma(z_{ik}) - y_{ik}\bigr)\,\bar f_i .$$
#
# If $y_{ik} = 1$ for all $i$, every factor is negative: no picture ever pulls the other way.  So $w_k$ runs towards
# the *average picture*, background included.  It runs until $\sigma = 1$, and the bias alone can bring it there
# without looking at any picture.  Let the bias learn the frequency first, $\sigma(b_k) = P(k)$, and see what is left.

# %%
average = mean_feature.mean(0, keepdim=True)  # (1, 384)
start = (0.5 - targets).T @ mean_feature  # (K, 384): bias 0
later = (targets.mean(0) - targets).T @ mean_feature  # (K, 384): the bias knows the frequency
alike = torch.nn.functional.cosine_similarity(-start, average)  # (K,)
print(f"cosine of the first step and the average picture: nose {alike[1]:.4f}, mouth {alike[9]:.2f}")
assert COMPONENTS[1] == "nose" and alike[1] > 0.999 and COMPONENTS[9] == "mouth" and alike[9].abs() < 0.9

# %%
left = later.norm(dim=1) / start.norm(dim=1)  # (K,)
figure = bars({"left": left.tolist()}, COMPONENTS, "Gradient that is left once the bias knows the frequency", "share")
show(figure, alt="Bars: zero for skin, nose, lips and other constant classes; highest for mouth and ears.")
assert left[COMPONENTS.index("skin")] < 1e-6 < 0.02 < left[COMPONENTS.index("mouth")]

# %% [markdown]
# For a constant class **nothing** is left: the gradient is zero, and whatever its weights are by then, they stay.  For
# a class with zeros and ones the factors have both signs, what all pictures share cancels, and what remains is what
# makes the difference.  The closer a class is to half and half, the more remains: most for the mouth and the ears.
#
# Two ways out are the subject of the course.  **CCD** (notebook 02) changes the table: hide the nose in some pictures
# and set its label to 0, and there is contrast.  **TCD** (notebook 03) adds a teacher that knows the words: a
# vision-language model is asked whether what the map shows looks like *a photo of a face with nose*.

# %% [markdown]
# ### Task 5: how many pictures to mask
#
# *Write it · 6 minutes · medium*
#
# Suppose CCD hides the nose in a share $q$ of the pictures, chosen at random, and writes 0 there. Then the nose has
# frequency $1-q$, and its label tells $H(1-q)$ bits. Write a function that finds the smallest share, in steps of 0.01,
# with which the nose tells at least `wanted` bits. (`co.label_information` takes an array of frequencies.)
#
# <details><summary>Hint 1</summary>Make an array of shares from 0 to 0.5 and ask for the bits of 1 minus
# each.</details>
#
# <details><summary>Hint 2</summary><code>np.argmax</code> of an array of True and False is the place of the first
# True.</details>


# %% tags=["exercise"]
def smallest_share(wanted):
    # BEGIN SOLUTION
    shares = np.arange(0, 0.51, 0.01)
    return shares[np.argmax(co.label_information(1 - shares) >= wanted)]
    # END SOLUTION


# %% tags=["check"]
with checking("Task 5"):
    checks.smallest_share(smallest_share)

# %% [markdown]
# The first zeros buy most: half a bit needs far less than half of the pictures.  Masking each part in half of them, as
# the default of this course does, gives the full bit, at the price that the network sees many faces without a nose.

# %% [markdown]
# ## Five questions
#
# Click on the answer that you would give: it says whether it is right, and why.

# %%
quiz("01")

# %% [markdown]
# ## What to take along
#
# * A label tells something only if it is sometimes 0.  In faces seven of eighteen are practically never 0.
# * Frequency hides behind conditionals; lift takes it out.
# * Equal columns give equal gradients and equal maps.  That is not a weakness of a method but of the table.
# * The statistics are those of *rendered* faces.  CelebAMask-HQ has the same stripes (the paper reports more than
#   99 % for skin and nose); with `faces = open_dataset("celebamask", root=...).weak` (from `wsfp_helpers.data.sets`)
#   this notebook computes its numbers on your own copy.
#
# **Next:** [02 Co-occurring component disentanglement](02_ccd.ipynb).
