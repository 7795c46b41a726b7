"""The words: a CLIP-style tokenizer learned from the captions, and a small CLIP text model trained with
the denoiser.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.settings import DenoiserSettings

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def learn_tokenizer(captions: Iterable[str], size: int, tokens: int, folder: Path) -> CLIPTokenizer:
    """Byte pair encoding over the captions with about `size` tokens.

    Every byte is in the vocabulary, alone and at the end of a word, so that any prompt in any script
    has tokens.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix=WORD_END, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(sorted(captions), trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    known = set(pieces)
    pieces += [byte + WORD_END for byte in sorted(alphabet) if byte + WORD_END not in known]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, START, END])}
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]
    ]
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def new_text_encoder(settings: DenoiserSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_width,
        intermediate_size=2 * settings.text_width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        max_position_embeddings=settings.tokens,
        projection_dim=settings.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str], tokens: int) -> torch.Tensor:
    """(len(captions), tokens) int64, padded and cut as diffusers' pipelines do it."""
    encoded = tokenizer(
        captions, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt"
    )
    return encoded.input_ids
