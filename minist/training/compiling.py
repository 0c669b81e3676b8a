"""torch.compile for the layers of an encoder: what stands between two attentions becomes one fused kernel or a few.

On a CPU it gains nothing: a training step of MiniLM takes as long as without, and compiling comes on top. It is here
for GPUs, where many small kernels can cost more than their work; that has not been measured yet.
"""

import os
import shutil

import torch
from torch import nn

from minist.encoders import bert, modernbert, mpnet
from minist.encoders.attention import attention
from minist.encoders.encoder import Encoder


def compile_layers(model: nn.Module) -> None:
    """Have each layer of each encoder in `model` compiled when it first runs, in place: names and weights stay.

    Sizes are symbols in what is compiled, so after the first few batches nothing is compiled anew. Dropout draws other
    masks than without. ValueError where there is no C++ compiler, or no encoder.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(f"compile = true needs a C++ compiler, there is no {compiler}: install it, or set CXX")
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    if not encoders:
        raise ValueError("compile = true is for the layers of an encoder, and this model has none: leave it out")
    # attention reads how long the texts are, and would be compiled for each batch; the name in each file is what its
    # layers call, and a model that is not compiled does not notice
    bert.attention = modernbert.attention = mpnet.attention = torch.compiler.disable(attention)
    # a layer is compiled with and without gradients and dropout, and ModernBERT has three kinds of them. Where torch
    # gave up and went on without, GradCache's two passes would draw different masks
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for encoder in encoders:
        for layer in encoder.layers:
            layer.compile(dynamic=True)
