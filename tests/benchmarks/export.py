"""all-MiniLM-L6-v2 for ONNX Runtime and OpenVINO, exported by torch; see peers.py."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from side_by_side import MODEL

BATCH, MAX_LENGTH = 32, 256  # of sentence-transformers and of this model
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FILES = {"int8": "int8.onnx"}  # by the last word of a kind; others are the plain one
EXPORT = f"""
import sys
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel

class Pooled(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        kept = attention_mask.unsqueeze(-1).to(x.dtype)
        return (x * kept).sum(1) / kept.sum(1)

model, folder = sys.argv[1:]
module = Pooled(AutoModel.from_pretrained(model, attn_implementation="eager")).eval()
inputs = tuple(torch.ones(2, 9, dtype=torch.long) for _ in range(3))
shape = {{0: torch.export.Dim("texts", min=1, max=1024), 1: torch.export.Dim("tokens", min=2, max=512)}}
names = {INPUTS!r}
program = torch.onnx.export(
    module, inputs, dynamo=True, input_names=list(names), output_names=["pooled"],
    dynamic_shapes=dict.fromkeys(names, shape), verbose=False,
)
program.save(folder + "/model.onnx")
quantize_dynamic(folder + "/model.onnx", folder + "/int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
"""


def export(folder: Path) -> None:
    """In a process of its own, whose memory and threads are gone afterwards."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXPORT, MODEL, folder], check=True, capture_output=True)


def session(kind: str, folder: Path, texts: list[str]) -> Callable[[], np.ndarray]:
    """`kind`: "ONNX Runtime int8", "OpenVINO float32" .. Returns what encodes all texts."""
    from transformers import AutoTokenizer

    library, dtype = kind.rsplit(" ", 1)
    run = (onnx_runtime if library == "ONNX Runtime" else openvino)(str(folder / FILES.get(dtype, "model.onnx")), dtype)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def encode() -> np.ndarray:
        order, found = np.argsort([-len(text) for text in texts], kind="stable"), [np.empty(0)] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = [texts[row] for row in rows]
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
            for row, pooled in zip(rows, run({name: tokens[name] for name in INPUTS}), strict=True):
                found[row] = pooled / np.linalg.norm(pooled)
        return np.stack(found)

    return encode


def onnx_runtime(file: str, dtype: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import onnxruntime

    opened = onnxruntime.InferenceSession(file)
    return lambda tokens: opened.run(None, tokens)[0]


def openvino(file: str, dtype: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import openvino

    core, hint = openvino.Core(), {"float32": "f32", "bfloat16": "bf16"}[dtype]
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda tokens: compiled(tokens)[0]
