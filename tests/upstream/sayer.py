"""A GGUF file whose model always says the same text: a real llama.cpp engine with a legible, fixed answer.

The weights are a bigram table: one-hot embeddings pass through layers of zeros, so the output row of the last
token alone decides the next one.
"""

import re
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = (
    "{% if tools %}<|im_start|>system\nTools: {% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    'Call one with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

BYTES = [f"<0x{value:02X}>" for value in range(256)]
BASE = ["<unk>", "<s>", "</s>", *BYTES, "<|im_start|>", "<|im_end|>"]
BASE_TYPES = [
    gguf.TokenType.UNKNOWN,
    *[gguf.TokenType.CONTROL] * 2,
    *[gguf.TokenType.BYTE] * 256,
    *[gguf.TokenType.CONTROL] * 2,
]
BOS, EOS = 1, 2
# Every chat template above ends with a line end: the first word follows it.
LINE_END = BASE.index("<0x0A>")
HEADS = 4


def make_gguf(path: Path, text: str, *, template: str = CHATML, context: int = 4096) -> Path:
    """Write a model that answers every prompt with `text`.

    Args:
        path: file to write.
        text: the answer; each word is a token.
        template: chat template; must end its prompt with a line end.
        context: size of the context in tokens.
    """
    words = unique_pieces(text)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, words, template, context)
    _weigh(writer, len(words))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def unique_pieces(text: str) -> list[str]:
    """Split a text at words into pieces that differ: a bigram needs another token for each place."""
    pieces: list[str] = []
    pending = ""
    for word in re.findall(r"\s*\S+\s*$|\s*\S+", text):
        pending += word
        if pending not in pieces:
            pieces.append(pending)
            pending = ""
    while pending:
        pending = pieces.pop() + pending
        if pending not in pieces:
            return [*pieces, pending]
    return pieces


def _describe(writer: gguf.GGUFWriter, words: list[str], template: str, context: int) -> None:
    tokens = [*BASE, *(word.replace(" ", "\u2581") for word in words)]
    writer.add_name("sayer")
    writer.add_context_length(context)
    writer.add_embedding_length(_width(len(words)))
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_width(len(words)) // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    # Far below the bytes' score, so that prompts are read byte by byte and end with LINE_END.
    writer.add_token_scores([0.0] * len(BASE) + [-1e4] * len(words))
    writer.add_token_types([*BASE_TYPES, *[gguf.TokenType.NORMAL] * len(words)])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)


def _weigh(writer: gguf.GGUFWriter, words: int) -> None:
    width = _width(words)
    writer.add_tensor("token_embd.weight", np.eye(len(BASE) + words, width, dtype=np.float32))
    writer.add_tensor("output.weight", _bigrams(words))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, width), np.float32))
    for name, shape in {"gate": (64, width), "up": (64, width), "down": (width, 64)}.items():
        writer.add_tensor(f"blk.0.ffn_{name}.weight", np.zeros(shape, np.float32))


def _bigrams(words: int) -> np.ndarray:
    table = np.zeros((len(BASE) + words, _width(words)), np.float32)
    places = [LINE_END, *range(len(BASE), len(BASE) + words), EOS]
    for last, following in pairwise(places):
        table[following, last] = 5.0
    return table


def _width(words: int) -> int:
    return -(-(len(BASE) + words) // 64) * 64
