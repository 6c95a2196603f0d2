"""The losses, by name. A loss is a module: logits, targets and progress in, a scalar out; nothing else is needed.

A new one is a file here, a row in the table and a recipe; a recipe may also name a class of its user's own as
"package.module:Class". This file imports nothing, so that names can be checked before torch is loaded.
"""

LOSSES = {
    "cross_entropy": "glmc.losses.cross_entropy:CrossEntropy",
    "class_weighted": "glmc.losses.class_weighted:ClassWeighted",
    "logit_adjusted": "glmc.losses.logit_adjusted:LogitAdjusted",
    "balanced_softmax": "glmc.losses.logit_adjusted:BalancedSoftmax",
    "softmax_bce": "glmc.losses.softmax_bce:SoftmaxBCE",
    "focal": "glmc.losses.focal:Focal",
    "class_balanced_focal": "glmc.losses.focal:ClassBalancedFocal",
    "ldam": "glmc.losses.ldam:LDAM",
    "vs": "glmc.losses.vector_scaling:VectorScaling",
    "label_aware_smoothing": "glmc.losses.label_aware_smoothing:LabelAwareSmoothing",
    "deferred": "glmc.losses.deferred:Deferred",
}
