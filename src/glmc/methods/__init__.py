"""The methods, by name. A method is a module: a training step in, named loss terms out; logits at test time.

A new one is a file here, a row in the table and a recipe; but what is a product of sampling, mixture, network and loss
needs none: it is a recipe of `supervised`. A recipe may also name a class of its user's own as "package.module:Class".
This file imports nothing, so that names can be checked before torch is loaded.
"""

METHODS = {
    "supervised": "glmc.methods.supervised:Supervised",
    "glmc": "glmc.methods.glmc:GLMC",
    "bbn": "glmc.methods.bbn:BBN",
    "experts": "glmc.methods.experts:Experts",
    "maxnorm": "glmc.methods.maxnorm:MaxNorm",
    "lws": "glmc.methods.lws:LWS",
    "distillation": "glmc.methods.distillation:Distillation",
    "bcl": "glmc.methods.bcl:BCL",
    "supcon": "glmc.methods.supcon:SupCon",
    "kcl": "glmc.methods.kcl:KCL",
    "tsc": "glmc.methods.tsc:TSC",
    "paco": "glmc.methods.paco:PaCo",
    "gpaco": "glmc.methods.gpaco:GPaCo",
    "risda": "glmc.methods.risda:RISDA",
    "ssd": "glmc.methods.ssd:SSD",
}
USUAL = {  # loss and mixture where a recipe does not name them; of all others cross_entropy and none
    "glmc": {"loss": "class_weighted", "mixture": "mixup_cutmix"},
    "maxnorm": {"loss": "softmax_bce"},
    "bcl": {"loss": "logit_adjusted"},
    "paco": {"loss": "balanced_softmax"},
    "gpaco": {"loss": "balanced_softmax"},
    "risda": {"loss": "deferred"},
}
