# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03 TCD: let text pull the parts of a face apart
#
# **Afterwards you can**
#
# * name the pieces of Fig. 2 of the paper, with the shape of everything that goes from one to the next;
# * write Eq. 3 to 16 in a few lines each, and check them against the package;
# * say what the paper leaves open (the logarithm of a cosine, sum or mean, which head makes $P$) and what depends on
#   it;
# * train the whole method for a minute, watch its losses and one face's maps, and start the long run.
#
# **Time** 110 minutes to read and do (a good break lies before *Pull*), one to two minutes to run on two cores.
# **Needs** nothing but the package.
# **Paper** sections 3.2 and 3.4.

# %% [markdown]
# ## In words
#
# Notebook 02 gave the labels zeros for eyes, brows, ears, nose and mouth.  Skin, hair and neck kept a constant label.
# **Text-guided component disentanglement** (TCD) asks somebody else: a model that has read captions of faces, and so
# knows what a face *with hair* looks like.  It is frozen; it only judges.
#
# ![The masked picture goes through the ViT; its class tokens become v_cls; its patch tokens become maps P, which cut
# v_ffc out of the picture and leave v_bfc; a frozen text encoder gives v_txt; v_cls and v_ffc are pulled to their own
# text and away from others, v_bfc away from its own](figures/tcd.svg)
#
# The idea in one sentence: if the map $P_k$ of the nose is right, then what it *keeps* of the picture should look like
# "a face with nose" to the image-text model, and what it *leaves* should not.  Both sentences are differentiable, so
# they can move the map.
#
# Three losses of MCTformer+, the network that the paper builds on, stay beside it: they are what teaches the labels.

# %%
import os
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.pictures import to_tensor
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, PROMPTS
from wsfp_helpers.method import tcd as losses
from wsfp_helpers.method.ccd import CCDConfig, accepted_boxes, mask_faces, mask_image
from wsfp_helpers.method.fcam import FcamConfig, extract
from wsfp_helpers.method.tcd import TcdConfig, encode_renders
from wsfp_helpers.method.train import preset, train
from wsfp_helpers.method.vit import Projector, patch_attention, vit_inputs

# %%
from wsfp_helpers.nets.vlm import mini_flip
from wsfp_helpers.notebook import explorers
from wsfp_helpers.notebook.checks import nb03 as checks
from wsfp_helpers.notebook.exercises import checking
from wsfp_helpers.notebook.plots import curves, fcam_sheet, gallery, heat, heatmap, show
from wsfp_helpers.notebook.quiz import quiz
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, load_run, load_shipped, run_keyed
from wsfp_helpers.tooling.results import read_results

# %% [markdown]
# ## The pieces, in shapes
#
# B pictures, K = 18 components, N patches, d = 384 channels.  In the full-size method the ViT is a DeiT-S that sees
# 448 pixels (N = 784).  In the embedded world eight of its blocks are frozen (a DINOv2, whose features a CPU computes
# once and keeps), the class tokens enter after them, and one more block is trained on 320 pixels (N = 400).

# %%
faces, boxes = synthfaces("celeb/train").weak, shipped_boxes("celeb/train")
vit = profile("embedded").model.build(seed=0)
image, labels = faces.image(0), torch.tensor(faces.labels[:1])  # (160, 160, 3), (1, K)
output = vit(vit_inputs(vit, [image]).float())
for name in ("class_tokens", "class_logits", "patch_map", "patch_logits"):
    print(f"{name:14}{tuple(getattr(output, name).shape)}")
trained = sum(p.numel() for p in vit.parameters())
print(f"{trained / 1e6:.1f} M trained weights")

# %% [markdown]
# Two readings of one network.  A **class token** is a learnt vector, one for each component, that enters the network
# beside the patches.  In every block it attends to them, that is, it takes a weighted mean of what they say, and so it
# ends as a summary of the picture *for its component*; the mean of its channels is the class score.  L is the number of
# trained blocks (here one, full size twelve).  The **patch map** is a 3 x 3 convolution of the patch tokens; pooled
# over the grid it is the second class score.  The pooling sorts a map and weighs its best patches most, so a small part
# need not be everywhere.

# %%
assert torch.allclose(output.class_logits, output.class_tokens[-1].mean(-1))
assert output.patch_map.shape == (1, len(COMPONENTS), 20, 20)
low, middle, high = (output.patch_map.flatten(2).quantile(q, -1).mean() for q in (0.0, 0.5, 1.0))
print(f"a patch map spans {low:.2f} .. {high:.2f}, its middle is {middle:.2f}, pooled {output.patch_logits.mean():.2f}")

# %% [markdown]
# ## The three losses that stay
#
# Both class scores $z_k$ are told the labels by the **soft margin** loss, a sigmoid cross-entropy in each class,
#
# $$\mathcal{L}_{mlsm} = -\frac{1}{K}\sum_k y_k \log\sigma(z_k) + (1-y_k)\log\bigl(1-\sigma(z_k)\bigr).$$
#
# The third, which MCTformer+ calls *contrastive*, keeps the class tokens apart: of all K tokens, token $k$ should have
# the largest cosine with itself.  That is a cross-entropy with the K cosines as scores and $k$ as the right answer, for
# the components that are present.  (It has nothing to do with the *contrast of labels* of notebooks 01 and 02, pictures
# with and without a part, so here we call it **tokens apart**.)


# %%
def soft_margin(z, y):
    """Soft margin of scores (B, K) and labels (B, K)."""
    return -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean()


def tokens_apart(tokens, y):
    """Cross-entropy over the cosines of class tokens (B, K, d), for the components with y = 1."""
    unit = F.normalize(tokens, dim=-1)
    own = -(unit @ unit.transpose(1, 2)).log_softmax(-1).diagonal(dim1=1, dim2=2)  # (B, K)
    return ((own * y).sum(-1) / y.sum(-1)).mean()


# %%
first = {
    "class scores": (soft_margin(output.class_logits, labels), losses.soft_margin(output.class_logits, labels)),
    "patch scores": (soft_margin(output.patch_logits, labels), losses.soft_margin(output.patch_logits, labels)),
    "tokens apart": (
        tokens_apart(output.class_tokens[-1], labels),
        losses.class_token_contrast(output.class_tokens, labels),
    ),
}
for name, (ours, packaged) in first.items():
    print(f"{name:13} {ours:.3f}")
    assert torch.isclose(ours, packaged, rtol=1e-4)
print(f"scores that know nothing have log 2 = {np.log(2):.3f}, equal tokens log {len(COMPONENTS)} = {np.log(18):.3f}")

# %% [markdown]
# ## Into the space of texts
#
# **Eq. 3** takes a class token into the space of the image-text model, $v_{cls}^k = W^\top F_{cls}^k$.  (Printed as one
# matrix; the sizes in Table 5 of the paper fit a small MLP, 384-512-512, so that is what we have.)
# **Eq. 4** makes a map between 0 and 1, $P_k = \sigma(\mathrm{conv}(F_{pat}))$.

# %%
vlm = mini_flip()
text = vlm.text(PROMPTS)  # (K, D): Eq. 7, encoded once
torch.manual_seed(0)
projector = Projector(384, out=text.shape[-1])
v_cls = projector(output.class_tokens[-1])  # (B, K, D)
P = patch_attention(output.patch_map)  # (B, K, 20, 20)
print(f"text {tuple(text.shape)}, v_cls {tuple(v_cls.shape)}, P {tuple(P.shape)} in {P.min():.2f} .. {P.max():.2f}")
assert v_cls.shape[1:] == text.shape and 0 < P.min() < P.max() < 1

# %% [markdown]
# ## The judge: an image-text model
#
# The paper's judge is **FLIP**, a CLIP that saw 80 million faces with captions.  It is not in this package
# (`nets/clip.py` reads your copy).  **mini-FLIP** stands in for it: 0.8 M weights, trained on
# the `pretrain` identities with captions that name the parts in sight (`scripts/train_mini_vlm.py`).  Ask it about one
# face, and about the same face with something covered.

# %%
found = accepted_boxes(boxes[faces.ids[0]].candidates, image.shape[:2], CCDConfig())
covered = {
    "whole face": image,
    "nose covered": mask_image(image, [found["nose"]]),
    "right eye and brow covered": mask_image(image, [found["r_eye"], found["r_brow"]]),
    "mouth and chin covered": mask_image(image, [(30, 95, 130, 135)]),
}
figure = gallery(list(covered.values()), list(covered), "One face, four times", columns=4)
show(figure, alt="A rendered face; the same with black boxes: nose; right eye and brow; mouth and chin.")

# %% [markdown]
# ### Task 1: which cosine drops?
#
# *Predict, then run · 2 minutes · easy*
#
# The judge gives each picture a cosine with each text, “a photo of a face with …”. In the fourth picture mouth and chin
# are covered. Which of these four cosines drops *most* against the whole face: `"nose"`, `"l_eye"`, `"skin"` or
# `"u_lip"`? Set `drops`.
#
# <details><summary>Hint 1</summary>What is under the black box, and of what is enough left?</details>
#
# <details><summary>Hint 2</summary>Of the four, only one part is hidden altogether.</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
drops = "u_lip"
# END SOLUTION

# %% tags=["check"]
with checking("Task 1"):
    checks.cosine_that_drops(drops)

# %%
parts = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip", "l_lip", "hair", "neck")
asked = [COMPONENTS.index(part) for part in parts]
with torch.no_grad():
    pictures = vlm.encode_image(vlm.prepare(to_tensor(covered.values())))  # (4, D)
    cosines = pictures @ text.T  # (4, K)
figure = heatmap(
    cosines[:, asked], list(covered), parts,
    "Cosine of picture and “a photo of a face with …”", "cosine", "picture", "prompt", centre=0,
)  # fmt: skip
show(figure, alt="Heat map of cosines, four pictures by ten prompts; right eye, brow and lips drop where covered.")

# %%
nose, lip, left, right = (COMPONENTS.index(k) for k in ("nose", "u_lip", "l_eye", "r_eye"))
for row, (name, k) in enumerate({"nose": nose, "right eye": right, "upper lip": lip}.items(), 1):
    print(f"{name}, whole -> covered: {cosines[0, k]:.2f} -> {cosines[row, k]:.2f}")
print(f"cosine of the texts of left and right eye: {text[left] @ text[right]:.2f}")
assert cosines[3, lip] < cosines[0, lip] - 0.1 and cosines[2, right] < cosines[2, left] - 0.1

# %% [markdown]
# Read the columns.  With mouth and chin covered, the cosines with the lips drop far: that is what TCD asks of a judge.
# With the right eye and brow covered, theirs drop and those of the left side *rise*: this judge tells sides apart.  It
# can, because the two texts are different vectors.  A first mini-FLIP had them nearly equal (0.99), and TCD then pulled
# the maps of both eyes into one (`docs/experiments.md`): print the cosines of your prompts before you trust a judge.
#
# A limit of *this* judge: a black box on the nose hardly impresses it, but without the mouth it doubts the nose, too.
# It knows regions better than parts, and that will come back in the maps.

# %% [markdown]
# ## Rendering: Eq. 5 and 6
#
# $$v_{ffc}^k = \varepsilon_v(\hat x \cdot P_k), \qquad v_{bfc}^k = \varepsilon_v(\hat x \cdot (1 - P_k)).$$
#
# $P$ is enlarged to the judge's own size, and it multiplies the *normalised* picture.  Zero there is not black but the
# mean colour of the judge's training pictures.  To see what good and bad maps would give, we make some by hand: a
# soft spot for the left eye, and one for the nose; for the eye, a spot on the *right* one is the bad map.


# %%
def spot(x, y, radius):
    """A soft map (20, 20) in [0, 1] around a place in pixels."""
    rows, columns = np.mgrid[0:20, 0:20] * 8 + 4
    return torch.tensor(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)), dtype=torch.float32)


centres = {k: ((x1 + x2) / 2, (y1 + y2) / 2) for k, (x1, y1, x2, y2) in found.items()}
hand_made = torch.stack([spot(*centres[k], 16) for k in ("l_eye", "r_eye", "nose")])  # (3, 20, 20)

# %%
normalised = vlm.prepare(to_tensor([image]))  # (1, 3, 96, 96)
big = F.interpolate(hand_made[:, None], (vlm.size, vlm.size), mode="bilinear")  # (3, 1, 96, 96)
rendered = torch.cat([normalised * big, normalised * (1 - big)])  # (6, 3, 96, 96): three Eq. 5, three Eq. 6
with torch.no_grad():
    scores = vlm.encode_image(rendered) @ text[[left, nose]].T  # (6, 2)

# %%
seen = (rendered * vlm.std + vlm.mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
names = [f"x̂ · {way}, P on the {part}" for way in ("P", "(1-P)") for part in ("left eye", "right eye", "nose")]
titles = [f"{name}\nleft eye {a:.2f}, nose {b:.2f}" for name, (a, b) in zip(names, scores, strict=True)]
figure = gallery(list(seen), titles, "What the judge is shown, and two cosines", columns=3, size=2.6)
show(figure, alt="Above, soft spots of the face on grey: left eye, right eye, nose. Below, the face with these greyed.")
assert scores[0, 0] > scores[1, 0] and scores[2, 1] > scores[1, 1] and scores[3, 0] < scores[4, 0]

# %% [markdown]
# **Be the map.**  Move the spot yourself, and make it larger: what is kept should look like the part, and what is left
# should not.  Where is the best place for each part, and how large is the best nose?

# %%
explorers.be_the_map(image, vlm)

# %% [markdown]
# Eq. 5 has a strong voice: the spot on the left eye is "a face with left eye", the one on the right eye clearly is not.
# The gradient of this cosine can move a map, even to the other side.  But the isolated nose gets less than the whole
# face (above): the judge likes context, and pulls the nose's map to be larger than the nose.  Eq. 6 speaks for the eye,
# whose cosine drops when it is greyed out, and not for the nose: a soft grey hole leaves enough of one to be seen.  In
# the paper the loss that uses it, Eq. 13, adds 0.04 F1.  In our small world it is the second largest step of TCD
# (`docs/results/table4.md`: {{table4 | + neg_ffc}} to {{table4 | + neg_bfc}}, skin from
# {{table4 | + neg_ffc | skin}} to {{table4 | + neg_bfc | skin}}): that what is left over must not show *skin* is
# something that no other term says.

# %% [markdown]
# ### Task 2: what a map leaves
#
# *Write it · 3 minutes · easy*
#
# Write Eq. 6 for normalised pictures `(n, 3, S, S)` and a map each, `(n, 1, S, S)` in 0 to 1.
#
# <details><summary>Hint 1</summary>Where the map is 1 nothing is left; where it is 0 the picture stays.</details>
#
# <details><summary>Hint 2</summary>Multiply, do not subtract and do not compare: the map must get a gradient.</details>


# %% tags=["exercise"]
def left_over(x, p):
    # BEGIN SOLUTION
    return x * (1 - p)
    # END SOLUTION


# %% tags=["check"]
with checking("Task 2"):
    checks.background(left_over)

# %% [markdown]
# ## Pull: Eq. 8 to 10
#
# $$\mathcal{L}_{pos}^{cls} = -\sum_k \hat y_k \log \mathrm{sim}(v_{cls}^k, v_{txt}^k),\qquad
# \mathcal{L}_{pos}^{ffc} = -\sum_k \hat y_k \log \mathrm{sim}(v_{ffc}^k, v_{txt}^k),$$
#
# and $\mathcal{L}_{pos} = \alpha_0 \mathcal{L}_{pos}^{cls} + \alpha_1 \mathcal{L}_{pos}^{ffc}$ with 1.2 and 0.2.  (The
# paper says that $\mathcal{L}_{pos}$ is *maximised*; with the minus sign it is minimised, as all the rest.)  Literally:

# %%
sim = F.cosine_similarity(v_cls, text, dim=-1)  # (B, K)
literal = -(labels * sim.log()).sum(-1).mean()
print(f"Eq. 8 as printed, before the first step: {literal:.3f}; the cosines lie in {sim.min():.2f} .. {sim.max():.2f}")
assert literal.isnan()

# %% [markdown]
# It is not a number.  A cosine may be negative, and a random projector makes it so for about half of the components.
# CLIMS, an earlier paper of the same group, clamps the cosine to at least 0.0001.  Then the loss is finite, but its
# gradient is *exactly zero* below: what starts there stays there.  This is the **dead zone**.  Our default goes on as a
# straight line, the tangent at 0.05; `sim_mode="clims"` is the faithful other choice.

# %%
one = torch.tensor([[1.0, 0.0]])
angles = torch.linspace(0.02, np.pi - 0.6, 200)  # from nearly the same direction to nearly opposite
vectors = torch.stack([angles.cos(), angles.sin()], -1)[:, None]  # (200, 1, 2)
config = TcdConfig()
attracted = {
    mode: [losses.positive_class(v[None], one, torch.ones(1, 1), replace(config, sim_mode=mode)) for v in vectors]
    for mode in ("tangent", "clims")
}
series = {mode: (angles.cos(), values) for mode, values in attracted.items()}
figure = curves(series, "The positive term: -log of a cosine, and what to do below zero", "cosine", "loss")
show(figure, alt="Both curves fall together from cosine 0.05 to 1; below, clims is flat at 9.2, tangent rises on.")

# %%
dead = []
for seed in range(8):
    torch.manual_seed(seed)
    start = Projector(384, out=text.shape[-1])(output.class_tokens[-1])
    dead.append(losses.dead_pairs(start, text, labels).item())
print("share of this face's components in the dead zone, 8 random projectors:", np.round(dead, 2))
assert 0 < np.mean(dead) < 1

# %% [markdown]
# It is a matter of luck: with one seed a few of the components start there, with another most of them, and for these
# the clamp switches the pull of the class branch off for good.  The training logs this share as `dead`.
#
# Where the cosine is comfortably positive, the equation and the package agree to the last digits (Eq. 9 is the same
# function of $v_{ffc}$):

# %%
near = text + 0.05 * torch.randn(4, *text.shape)  # (4, K, D): four pictures near their texts
present = torch.tensor(faces.labels[:4])  # (4, K)
sim = F.cosine_similarity(near, text, dim=-1)
eq8 = -(present * sim.log()).sum(-1).mean()
assert torch.isclose(eq8, losses.positive_class(near, text, present, replace(config, reduction="sum")))
print(f"Eq. 8: {eq8:.4f}, smallest cosine {sim.min():.2f}")

# %% [markdown]
# ### Task 3: the tangent
#
# *Write it · 10 minutes · hard*
#
# Write the default yourself: $-\log c$ for $c \ge \tau$, and below $\tau$ its tangent at $\tau$.
#
# <details><summary>Hint 1</summary>The slope of -log at tau is -1 / tau, and the value there is -log(tau): that makes
# the line.</details>
#
# <details><summary>Hint 2</summary><code>torch.where</code> also differentiates the branch that it does not choose, and
# 1 / 0 times 0 is not a number: clamp the cosine at tau before the logarithm.</details>


# %% tags=["exercise"]
def attract(cosine, tau=0.05):
    """-log(cosine), continued below tau as a straight line; works on tensors of any shape."""
    # BEGIN SOLUTION
    line = -np.log(tau) - (cosine - tau) / tau
    return torch.where(cosine < tau, line, -cosine.clamp(min=tau).log())
    # END SOLUTION


# %% tags=["check"]
with checking("Task 3"):
    checks.tangent(attract)

# %% [markdown]
# ## Push: Eq. 11 to 14
#
# $$\mathcal{L}_{neg}^{cls} = -\sum_k\sum_l \hat y_k \log\left(1 - \mathrm{sim}(v_{cls}^k, v_{txt}^{k,l})\right),\qquad
# \mathcal{L}_{neg}^{bfc} = -\sum_k \hat y_k \log\left(1 - \mathrm{sim}(v_{bfc}^k, v_{txt}^k)\right),$$
#
# and Eq. 12 is Eq. 11 for $v_{ffc}$; their weights (Eq. 14) are 2.1, 0.1 and 0.017.  The text $v_{txt}^{k,l}$ is the
# *l*-th prompt that does not belong to k: by default all 17 others.  A negative cosine is already as far as we want, so
# it is counted as 0.

# %%
others = 1 - torch.eye(len(text))  # (K, K): every l that is not k
cosine = F.normalize(near, dim=-1) @ text.T  # (B, K, K)
terms = -(1 - cosine.clamp(0, 0.9999)).log() * others
eq11 = (present[..., None] * terms).sum((1, 2)).mean()
assert torch.isclose(eq11, losses.negative_class(near, text, present, replace(config, reduction="sum")))
print(f"Eq. 11, sum over k and l: {eq11:.1f}")

# %% [markdown]
# ### Task 4: Eq. 13
#
# *Write it · 8 minutes · medium*
#
# Write Eq. 13 as printed, for vectors `v` $(B, K, D)$ of any length, texts $(K, D)$ of length 1 and labels $(B, K)$: a
# sum over the components, then the mean over the pictures. A negative cosine counts as 0.
#
# <details><summary>Hint 1</summary><code>F.cosine_similarity(v, text, dim=-1)</code> has the shape (B, K): each
# component with its own text.</details>
#
# <details><summary>Hint 2</summary>Clamp between 0 and 0.9999, take -log(1 - cosine), multiply by the labels.</details>


# %% tags=["exercise"]
def push_left_over(v, text, present):
    # BEGIN SOLUTION
    cosine = F.cosine_similarity(v, text, dim=-1).clamp(0, 0.9999)  # (B, K)
    return -((1 - cosine).log() * present).sum(-1).mean()
    # END SOLUTION


# %% tags=["check"]
with checking("Task 4"):
    checks.push_background(push_left_over)

# %% [markdown]
# **Sum or mean?**  The equations print sums.  At a typical cosine $c$ of 0.25 one positive term pulls with $1/c = 4$
# and one negative term pushes with $1/(1-c) = 1.33$, but there are 17 of those.

# %%
c = 0.25
rows = {"class token": (config.alpha0, config.beta0), "foreground": (config.alpha1, config.beta1)}
print("gradient on one component's cosines   pull   push (sum over l)   push (mean over l)")
for name, (alpha, beta) in rows.items():
    print(f"{name:36}{alpha / c:6.2f}{17 * beta / (1 - c):20.2f}{beta / (1 - c):21.2f}")
assert 17 * config.beta0 / (1 - c) > 5 * config.alpha0 / c

# %% [markdown]
# With the sum the class branch is pushed ten times as hard as it is pulled, and together with the clamp it falls into
# the dead zone and stays there.  CLIMS's code takes means; so do we.  `reduction="sum"` is the printed equation.

# %% [markdown]
# ### Task 5: which negatives?
#
# *Write it · 10 minutes · hard*
#
# "Non-corresponding" texts may be all 17 others, or only those of the *other parts that this picture has*
# (`negatives="present"`). Write Eq. 11 in the second reading, as a sum over k and l, averaged over pictures.
#
# <details><summary>Hint 1</summary>All cosines at once: <code>F.normalize(v, dim=-1) @ F.normalize(text,
# dim=-1).T</code> is (B, K, K).</details>
#
# <details><summary>Hint 2</summary>A pair (k, l) counts where the picture has both and k is not l: <code>present[:, :,
# None] * present[:, None, :] * (1 - eye)</code>.</details>


# %% tags=["exercise"]
def push_present(v, text, present):
    """Eq. 11 for v (B, K, D), text (K, D) and labels (B, K): only l with present[b, l] = 1 and l != k count."""
    # BEGIN SOLUTION
    cosine = F.normalize(v, dim=-1) @ F.normalize(text, dim=-1).T  # (B, K, K)
    pairs = present[:, :, None] * present[:, None, :] * (1 - torch.eye(len(text)))
    return -(pairs * (1 - cosine.clamp(0, 0.9999)).log()).sum((1, 2)).mean()
    # END SOLUTION


# %% tags=["check"]
with checking("Task 5"):
    checks.push_present(push_present)

# %% [markdown]
# ## Less is more: Eq. 15, and the sum of all
#
# $\mathcal{L}_{reg}$ is the mean of $P$ over pixels, *all* components and pictures.  It makes a map shrink unless
# something holds it up.  Eq. 16 adds up, $\mathcal{L} = \mathcal{L}_{pos} + \mathcal{L}_{neg} +
# \lambda\mathcal{L}_{reg}$ with $\lambda$ = 0.05.

# %%
eq15 = torch.stack([P[0, k].sum() / (20 * 20) for k in range(len(COMPONENTS))]).mean()
assert torch.isclose(eq15, losses.regularisation(P))
shown = labels.bool()
foreground, background = encode_renders(P, to_tensor([image]), shown, vlm)  # (B, K, D) each: Eq. 5 and 6
print(f"{int(shown.sum())} rendered pairs of picture and component, vectors {tuple(foreground.shape)}")


# %%
def pull(v_cls, v_ffc, y, shown):
    """Eq. 10 from vectors (B, K, D), labels and rendered pairs, both (B, K)."""
    l_cls = losses.positive_class(v_cls, text, y, config)  # Eq. 8
    l_ffc = losses.positive_foreground(v_ffc, text, shown, config)  # Eq. 9
    return config.alpha0 * l_cls + config.alpha1 * l_ffc


def push(v_cls, v_ffc, v_bfc, y, shown):
    """Eq. 14, arguments as above."""
    l_cls = losses.negative_class(v_cls, text, y, config)  # Eq. 11
    l_ffc = losses.negative_foreground(v_ffc, text, shown, config)  # Eq. 12
    l_bfc = losses.negative_background(v_bfc, text, shown, config)  # Eq. 13
    return config.beta0 * l_cls + config.beta1 * l_ffc + config.beta2 * l_bfc


# %%
l_pos, l_neg = pull(v_cls, foreground, labels, shown), push(v_cls, foreground, background, labels, shown)
l_tcd = l_pos + l_neg + config.reg * eq15  # Eq. 16
print(f"Eq. 10: {l_pos:.2f}   Eq. 14: {l_neg:.2f}   Eq. 15: {eq15:.2f}   Eq. 16: {l_tcd:.2f}")
whole, _ = losses.Objective(config, vlm, base=False)(output, v_cls, to_tensor([image]), labels)
assert torch.isclose(l_tcd, whole), "the package's sum of Eq. 8 to 15 is another"

# %% [markdown]
# ## Which head makes P, and why three old losses stay
#
# Fig. 2 does not say whether $P$ comes from the *same* convolution as the patch scores.  The number of weights in
# Table 5 says: yes.  So the maps that we will look at are moved by the labels **and** by the text.  And what
# does a class learn that is *not* on the picture?  Ask for the gradient, channel by channel.

# %%
weight = vit.patch_head.weight  # (K, 384, 3, 3)
sources = {
    "text (Eq. 9, 12, 13)": config.alpha1 * losses.positive_foreground(foreground, text, shown, config)
    + config.beta1 * losses.negative_foreground(foreground, text, shown, config)
    + config.beta2 * losses.negative_background(background, text, shown, config),
    "size (Eq. 15)": config.reg * eq15,
    "labels (patch scores)": losses.soft_margin(output.patch_logits, labels),
}
pushes = {
    name: torch.autograd.grad(value, weight, retain_graph=True)[0].flatten(1).norm(dim=1)
    for name, value in sources.items()
}

# %%
absent = ~labels[0].bool()
print(f"{'gradient of the patch head from':34}{'present':>10}{'absent':>10}   (mean norm per channel)")
for name, norm in pushes.items():
    print(f"{name:34}{norm[~absent].mean():10.4f}{norm[absent].mean():10.4f}")
assert pushes["text (Eq. 9, 12, 13)"][absent].max() == 0 < pushes["labels (patch scores)"][absent].min()

# %% [markdown]
# Text never *moves the map* of an absent class, whose prompt only serves the others as a negative: without the labels'
# losses nothing would teach this map to be empty but the shrinking of Eq. 15.  And at the start the labels are by far
# the louder voice; text comes into its own as their gradient fades, and for the classes whose label never changes.  Eq.
# 16 does not print them, but they must be there: the paper's own Table 4 starts with $\mathcal{L}_{pos}^{cls}$ alone,
# which does not touch the patch head at all.

# %% [markdown]
# ### Task 6: prompts exchanged
#
# *Break it and see · 5 minutes · medium*
#
# Suppose that somebody exchanges the prompts of left and right, for eyes, brows and ears. To where will text pull the
# map of the left eye? Set `goes` to `"to the right eye"`, `"to both eyes"`, `"to the mouth"` or `"nowhere: labels hold
# it"`; then run the cell behind the check.
#
# <details><summary>Hint 1</summary>The judge still knows eyes, and still tells the two texts apart.</details>
#
# <details><summary>Hint 2</summary>Which picture gets the highest cosine with the text that now stands for the left
# eye?</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
goes = "to the right eye"
# END SOLUTION

# %% tags=["check"]
with checking("Task 6"):
    checks.exchanged_prompts(goes)

# %%
exchanged = text[CELEBAMASK.flip_components]  # the prompts of left and right have changed places
for name, prompts in {"as they are": text, "exchanged": exchanged}.items():
    with torch.no_grad():
        kept = vlm.encode_image(normalised * big[:2]) @ prompts[left]  # a spot on the left eye, one on the right
    print(
        f"prompts {name:12} text of the left eye with a spot on the left eye {kept[0]:.2f}, on the right {kept[1]:.2f}"
    )
assert kept[1] > kept[0]

# %% [markdown]
# **The switchboard.**  Each term of TCD pulls the map of a part up in some places and down in others.  Switch terms on
# and off and see what they want of the map together, at the start of a training: orange is up, purple is down.

# %%
explorers.loss_switchboard(image, torch.tensor(faces.labels[0]), output, vlm, config)

# %% [markdown]
# Switch off everything but `pos_ffc`, and then everything but `neg_bfc`: the first asks for what the judge likes to see
# with the part, the second for what still shows the part when the map is taken away.  `reg` asks for less, everywhere.

# %% [markdown]
# ## One step, in a dozen lines
#
# All of it is one forward pass, nine losses, and one backward pass.  Eight pictures, and of each two random components
# are rendered:

# %%
some = faces.subset(range(0, 32, 4))
images, y = [some.image(i) for i in range(8)], torch.tensor(some.labels)  # y (8, K)
inputs = vit_inputs(vit, images).float()  # (8, 400, 384)
pictures = to_tensor(images)  # (8, 3, 160, 160), for mini-FLIP
optimiser = torch.optim.AdamW([*vit.parameters(), *projector.parameters()], lr=1e-3)


# %%
def step():
    out = vit(inputs)  # forward
    v_cls, P = projector(out.class_tokens[-1]), patch_attention(out.patch_map)  # Eq. 3 and 4
    shown = losses.sample_components(y, 2)  # (8, K)
    v_ffc, v_bfc = encode_renders(P, pictures, shown, vlm)  # Eq. 5 and 6
    base = losses.soft_margin(out.class_logits, y) + losses.soft_margin(out.patch_logits, y)
    base = base + losses.class_token_contrast(out.class_tokens, y)  # tokens apart: the three of MCTformer+
    text_guided = pull(v_cls, v_ffc, y, shown) + push(v_cls, v_ffc, v_bfc, y, shown)
    loss = base + text_guided + config.reg * losses.regularisation(P)  # Eq. 16 beside the base losses
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


# %% [markdown]
# The package's trainer does the same: `Trainer.step` (in `wsfp_helpers/method/train.py`) takes its loss from one
# `Objective`, which must give the value of our first step.  Around it, it adds mixed precision and several GPUs, and
# `Trainer.fit` the learning rates, a log of every loss, and checkpoints, so that a run that was killed goes on.

# %%
objective = losses.Objective(replace(config, max_classes_per_image=2), vlm)
torch.manual_seed(0)  # both draw the same components
out = vit(inputs)
wanted, terms = objective(out, projector(out.class_tokens[-1]), pictures, y)
torch.manual_seed(0)
taken = [step() for _ in range(4)]
print("loss of four steps:", *(f"{value:.2f}" for value in taken))
assert np.isclose(taken[0], wanted.item(), rtol=1e-4) and taken[-1] < taken[0]

# %% [markdown]
# ## A training, live
#
# Now with everything around it: every seventh training face, masked by CCD, batches of 8.  To stay within two minutes
# of a CPU we render two random components of each picture and step (`max_classes_per_image`).  `train` makes a
# `Trainer` and lets it `fit`.  It first computes the features of the masked faces, about 0.1 s each on two cores; they
# stay on disk for the next time.
#
# `train` calls `on_step` after each step.  We collect the losses, and now and then the maps of a face that is *not* in
# the training set.

# %%
vit = profile("embedded").model.build(seed=0)  # afresh
viewer = False  # True: break it, see below
some = faces.subset(range(0, len(faces), 7))
small = mask_faces(some, boxes)  # 98 faces
if viewer:  # what is hidden on one side is struck off on the other
    small = replace(
        small, labels=some.labels - (some.labels - small.labels)[:, CELEBAMASK.flip_components] * some.labels
    )
setting = replace(preset("embedded"), epochs=3, batch_size=8, warmup_epochs=0,
                  tcd=replace(config, max_classes_per_image=2))  # fmt: skip
print(f"{len(small)} pictures; learning rate {setting.lr} at the start, a cosine from there")
other = synthfaces("celeb/val").weak.subset([0])
plain = FcamConfig(scales=(1.0,), flip=False, variant="patch", affinity=False)
parts = ["skin", "nose", "r_eye", "hair"]


# %%
def look():
    """Maps (4, 160, 160) of the other face now, each scaled to [0, 1]."""
    (fcam,) = extract(vit, other, plain)
    vit.train()
    places = [list(fcam.classes).index(COMPONENTS.index(part)) for part in parts]
    return fcam.maps()[places]


# %%
log, film = [], {"start": look()}


def on_step(step, terms):
    log.append(terms)
    if step % 12 == 0:
        film[f"step {step}"] = look()


begun = time.monotonic()
model = train(vit, small, setting, vlm=vlm, on_step=on_step)
took = time.monotonic() - begun
print(f"{len(small)} pictures, {len(log)} steps, loss {log[0]['loss']:.2f} -> {log[-1]['loss']:.2f}")


# %%
def smooth(name, width=6):
    """Step numbers and the running mean of a loss term over some steps."""
    values = np.convolve([terms[name] for terms in log], np.ones(width) / width, "valid")
    return np.arange(width, len(log) + 1), values


base = {"class scores": "class_mlsm", "tokens apart": "contrast", "patch scores": "patch_mlsm"}  # as the log calls them
base = {words: smooth(name) for words, name in base.items()}
figure = curves(base, "The three losses of MCTformer+", "step", "loss (mean of 6 steps)")
show(figure, alt="Tokens apart falls and levels off, the patch scores fall to half, the class scores stay near 0.69.")
early, late = (np.mean([terms["loss"] for terms in part]) for part in (log[:6], log[-6:]))
assert late < early

# %%
names = ("pos_cls", "pos_ffc", "neg_cls", "neg_ffc", "neg_bfc", "reg")
text_terms = {name: smooth(name) for name in names}
figure = curves(text_terms, "The terms of TCD, not weighted", "step", "loss (mean of 6 steps)", log=True)
show(figure, alt="Six curves, logarithmic axis: class terms and neg_bfc fall far, pos_ffc by half, the others hardly.")
print("dead pairs:", [round(terms["dead"], 2) for terms in log[:3]], "...", round(log[-1]["dead"], 2))

# %% [markdown]
# Three speeds.  The projector aligns class tokens and texts (`pos_cls`, `neg_cls`), and the dead zone is empty after
# the first step: the tangent has pulled everybody out.  The patch scores learn the labels, while the class scores are
# still near log 2 = 0.69, a coin.  And of the terms that judge the *pictures*, `pos_ffc` falls by half
# and levels off, `neg_bfc` keeps falling, while `neg_ffc` hardly moves: what a map keeps begins to look like its own
# text, but it still looks like the neighbours' texts, too.  The jitter is the random choice of components.

# %%
strip = [heat(other.image(0), film[moment][row]) for row in range(len(parts)) for moment in film]
titles = [f"{part}, {moment}" for part in parts for moment in film]
figure = gallery(strip, titles, "Maps of a face that the training never saw", columns=len(film), size=2.1)
show(figure, alt="Rows skin, nose, right eye, hair, from noise to shapes: all but the skin near their part.")
last = film[list(film)[-1]][parts.index("r_eye")]
print(
    f"{100 * last[:, :80].sum() / last.sum():.0f} % of the right eye's map lie on the left half of the picture, its own"
)

# %% [markdown]
# At the start each map is the noise of a random convolution, stretched to the full range.  After a dozen steps nose and
# eye, which CCD masks in half of the pictures, have left the outline of the head; the eye's map is strongest on its own
# side, on the left of the picture.  Hair becomes a cap.  Towards the end little moves: the cosine has taken the
# learning rate to almost nothing.  And **skin is wrong**: it fills wall and hair.  Its label never changes, so only
# text could tell, and text was heard for two of some nine parts that CCD leaves on a list, over 36 steps.  Other seeds
# look different in detail.

# %% [markdown]
# ### Task 7: without what is left over
#
# *Break it and see · 5 minutes · medium*
#
# Leave out Eq. 13, `beta2=0`. Which class will miss it most: `"skin"`, `"nose"`, `"l_eye"` or `"hat"`? Set `misses`;
# the cell behind the check has the stored scores of three long runs with and without it. (With a minute to spare: put
# `beta2=0` into `tcd=replace(...)` above, train again, and look at the maps of the strip.)
#
# <details><summary>Hint 1</summary>Eq. 13 says: in what is left over, this part must not be seen.</details>
#
# <details><summary>Hint 2</summary>Which part is still to be seen nearly everywhere when its map is too small, and has
# no other teacher?</details>

# %% tags=["exercise"]
# BEGIN SOLUTION
misses = "skin"
# END SOLUTION

# %% tags=["check"]
with checking("Task 7"):
    checks.without_background(misses)

# %%
rows = {row["name"]: row["per_class"] for row in read_results("table4")["rows"]}
for part in ("skin", "nose", "l_eye", "hat"):
    without, with_it = (np.mean(rows[name][part]) for name in ("+ neg_ffc", "+ neg_bfc"))
    print(f"{part:6} F1 without Eq. 13 {without:5.1f}, with it {with_it:5.1f}")

# %% [markdown]
# **Break it yourself: the viewer's sides.**  What if Eq. 1 were read with the *viewer's* left?  Then the box hides the
# left eye, and the label denies the right one.  Set `viewer = True` in the training above, train again (a minute), and
# compare the maps of the right eye and the share that was printed.

# %% [markdown]
# ## The long run
#
# The package ships the weights of three long runs of the embedded world, seed 0, all 686 faces: the baseline, with
# CCD, and with both (card: `wsfp_helpers/assets/fcam.md`).  The same face, the same maps, from the last one:

# %%
full = load_shipped("full")
(fcam,) = extract(full, other, plain)
names = [COMPONENTS[k] for k in fcam.classes]
figure = fcam_sheet(other.image(0), fcam.maps(), names, "Patch maps after the long run (full method)", columns=7)
show(figure, alt="The face and one panel for each of its components, with the map of the long run on it.")
strongest = {name: np.unravel_index(m.argmax(), m.shape) for name, m in zip(names, fcam.maps(), strict=True)}
assert strongest["r_eye"][1] < 80 < strongest["l_eye"][1] and strongest["hair"][0] < strongest["neck"][0]

# %% [markdown]
# After 170 steps on all faces, with eight components of each picture rendered, skin is on the face (with the hairline),
# and nose, eyes, brows and ears are in their places, each on its own side.  It is also easy to see what is not solved:
# every map is larger than its part, the two lips are one map, and the neck climbs up the jaw to the ears.  Notebook 04
# takes these maps apart.

# %% [markdown]
# **Train it yourself.**  On a GPU the next cell does, with the settings of a profile, and says before how long it may
# take; on a CPU it does when the environment variable `WSFP_PROFILE` names a profile before the notebook starts
# (`embedded`: about ten minutes on two cores).  What is interrupted goes on when the cell runs again.

# %%
chosen = os.environ.get("WSFP_PROFILE") or ("embedded" if torch.cuda.is_available() else None)
if chosen:
    long = profile(chosen)
    pictures, shown = len(long.faces("train")) * long.train.epochs, long.train.tcd.max_classes_per_image or 9
    more = pictures * shown / (len(small) * setting.epochs * 2)  # times what was trained above
    print(f"{pictures} pictures, {more:.0f} times the work of the training above: at most {more * took / 60:.0f} min")
    found = SHIPPED if chosen == "embedded" else "boxes/boxes.jsonl"  # boxes of the training pictures
    mine, _ = load_run(run_keyed(long, found, cache_dir() / "ablate"))  # shared with `wsfp ablate`
    (fcam,) = extract(mine.to("cpu"), other, plain)
    show(fcam_sheet(other.image(0), fcam.maps(), names, "Patch maps after your own long run", columns=7),
         alt="The face and one panel for each of its components, with the map of the run just trained.")  # fmt: skip
else:
    print("No GPU, and no WSFP_PROFILE: nothing is trained here.")

# %% [markdown]
# The same by commands: `wsfp train --out runs/full`, then `wsfp fcam --run runs/full --out runs/full/fcams`.  At full
# size, with your copies of CelebAMask-HQ, DeiT-S and FLIP: `wsfp ccd --profile paper --out boxes`, then `wsfp train
# --profile paper --boxes boxes/boxes.jsonl --out runs/paper` (hours on one large GPU), or, from there on,
# `WSFP_PROFILE=paper` and the cell above.

# %% [markdown]
# ## Five questions
#
# Click on the answer that you would give: it says whether it is right, and why.

# %%
quiz("03")

# %% [markdown]
# ## What to take along
#
# * A frozen image-text model can tell whether a map keeps the right thing: by what it keeps and by what it leaves.
# * As printed, Eq. 8 is not a number at the first step; the remedy decides whether the class branch learns at all.
# * Sum or mean over 17 negatives changes the balance of pull and push by a factor of 17.
# * Text moves only the maps of classes that are present; labels and Eq. 15 move the others.
# * Text knows sides only if the model's texts of left and right differ.  What the maps look like in the end is the
#   subject of notebook 04.
