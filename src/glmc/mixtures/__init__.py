"""The mixtures, by name. A mixture is a module: two batches of one step in, images and label distributions out.

A new one is a file here, a row in the table and a recipe; a recipe may also name a class of its user's own as
"package.module:Class". This file imports nothing, so that names can be checked before torch is loaded.
"""

MIXTURES = {
    "none": "glmc.mixtures.base:Mixture",
    "mixup": "glmc.mixtures.mixup:MixUp",
    "cutmix": "glmc.mixtures.cutmix:CutMix",
    "remix": "glmc.mixtures.remix:Remix",
    "cmo": "glmc.mixtures.cmo:CMO",
    "mixup_cutmix": "glmc.mixtures.mixup_cutmix:MixUpCutMix",
}
