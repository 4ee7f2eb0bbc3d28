"""Tokenizers of every kind the chat path must serve, made here: the templates in the manner of known model families."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from concordant.data.tokenizer import train_tokenizer

TEXT = [
    "Where does the owl live? The owl lives in a tree. And the fox? The fox lives in a den.",
    "\n\nHuman: Q PROBE\n\nAssistant: What colour is it? It is brown, and it sleeps by day!",
    "Answer shortly. <|im_start|>system user assistant model [INST] hello there (0123456789) 'x' / = + - _ @ # % & *",
] * 3

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (  # BOS in the template, content trimmed
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start|>' + m.role + '<|stop|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
GEMMA = (  # no system role, the assistant is called model
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (  # no generation prompt; EOS after an answer
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'system' %}{{ m.content + '\n' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
REWRITING = (  # answers before the last question are shortened, as templates that drop earlier thoughts do
    "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}"
    "{{ '<|im_start|>assistant\n...<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Templates of models that think. A thought is message.reasoning_content, or stands in front of the content.
_SPLIT = (
    "{% set thought = m.reasoning_content or '' %}{% set words = m.content %}"
    "{% if '</think>' in words %}{% set thought = words.split('</think>')[0].split('<think>')[-1] | trim %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
THINKING = (  # the last answer has a thought, which may be empty; earlier answers lose theirs
    "{% for t in tools or [] %}{{ '[' + t.name + ']' }}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}" + _SPLIT + "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ words + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
OPENING = THINKING.replace(  # generation begins inside a thought
    "{% if enable_thinking is",
    "{% if not enable_thinking is defined %}{{ '<think>\n' }}{% endif %}{% if enable_thinking is",
)
FORGETTING = (  # generation begins inside a thought, and no answer that is rendered has one
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>' + m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% else %}{{ '<|endoftext|>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|><think>\n' }}{% endif %}"
)
CHANNELS = (  # thought and answer in channels, another token at the end of the last answer
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if loop.last and m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML
PARTS = CHATML.replace("m.content", "m.content[0].text")  # content is a list of parts
TWO_ENDS = CHATML.replace("'<|im_end|>\n'", "'<|im_end|><|endoftext|>'")  # EOS follows the end of turn at once
STRICT = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    + (
        "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
    )
)


def byte_level(special: list[str], template: str | None = None, adds_bos: bool = False, **named: str):
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it. ``adds_bos``: plain text gets BOS in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return _wrapped(tokenizer, template, adds_bos, named)


def metaspace(scheme: str, template: str, adds_bos: bool = True):
    """SentencePiece's way, as Llama 2 and Mistral have it: a space is ▁, and the first word gets one in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=["\n"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return _wrapped(tokenizer, template, adds_bos, named)


def word_piece():
    """BERT's: [CLS] and [SEP] around the text, no chat template."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _wrapped(tokenizer, template, adds_bos, named):
    if adds_bos:
        bos = named["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **named)


IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAKERS = {
    "builtin": lambda: train_tokenizer(TEXT, 400),
    "no template, pad = EOS": lambda: byte_level(
        IM[:1], eos_token="<|endoftext|>", pad_token="<|endoftext|>", bos_token="<|endoftext|>"
    ),
    "no template, BOS added": lambda: byte_level(
        ["<s>", "</s>"], adds_bos=True, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ),
    "chatml": lambda: byte_level(IM, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "chatml, another EOS": lambda: byte_level(IM, CHATML, eos_token="<|endoftext|>", pad_token="<|endoftext|>"),
    "llama 3": lambda: byte_level(
        ["<|bos|>", "<|eos|>", "<|start|>", "<|stop|>", "<|eot|>"],
        LLAMA3, adds_bos=True, bos_token="<|bos|>", eos_token="<|eos|>",
    ),
    "gemma": lambda: byte_level(
        ["<bos>", "<eos>", "<turn>", "<end>"], GEMMA, adds_bos=True, bos_token="<bos>", eos_token="<eos>"
    ),
    "mistral": lambda: metaspace("first", MISTRAL),
    "llama 2": lambda: metaspace("always", MISTRAL),
    "metaspace without a template": lambda: metaspace("always", None),
}  # fmt: skip
CHANNEL = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]
TEMPLATES = {"thinking": THINKING, "opening": OPENING, "forgetting": FORGETTING, "dated": DATED, "parts": PARTS}
TEMPLATES |= {"two ends": TWO_ENDS, "strict": STRICT}


def templated(name: str):
    """A tokenizer with one of ``TEMPLATES``, or with channels. Thought tags are tokens, and not special."""
    if name == "channels":
        return byte_level(CHANNEL, CHANNELS, eos_token="<|return|>")
    eos = "<|endoftext|>" if name == "two ends" else "<|im_end|>"
    tokenizer = byte_level(IM, TEMPLATES[name], eos_token=eos)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


ENDS = {  # what must end a response
    "builtin": "<|end|>",
    "no template, pad = EOS": "<|endoftext|>",
    "no template, BOS added": "</s>",
    "chatml": "<|im_end|>",
    "chatml, another EOS": "<|im_end|>",
    "llama 3": "<|eot|>",
    "gemma": "<end>",
    "mistral": "</s>",
    "llama 2": "</s>",
    "metaspace without a template": "</s>",
}
BOS = {"no template, BOS added": "<s>", "llama 3": "<|bos|>", "gemma": "<bos>"}
BOS |= dict.fromkeys(("mistral", "llama 2", "metaspace without a template"), "<s>")
