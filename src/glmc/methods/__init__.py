"""The methods, by name. A method is a module: a training step in, named loss terms out; logits at test time.

A new one is a file here, a row in the table and a recipe. A recipe may also name a class of its user's own as
"package.module:Class". This file imports nothing, so that recipes can be checked before torch is loaded.
"""

METHODS = {
    "ce": "glmc.methods.cross_entropy:CrossEntropy",
    "logit_adjusted": "glmc.methods.logit_adjusted:LogitAdjusted",
    "glmc": "glmc.methods.glmc:GLMC",
    "maxnorm": "glmc.methods.maxnorm:MaxNorm",
    "crt": "glmc.methods.crt:CRT",
    "lws": "glmc.methods.lws:LWS",
    "balanced_softmax": "glmc.methods.balanced_softmax:BalancedSoftmax",
}
