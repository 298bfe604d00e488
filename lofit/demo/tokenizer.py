"""A byte-level BPE tokenizer whose vocabulary is the lexicon of the world, so that almost every word is one token."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def train(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A fast tokenizer that puts `<s>` in front; any other text still encodes, byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lexicon = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    # Every word counts once, so that merging ends when all words are whole and not when the frequent ones are.
    trainer = trainers.BpeTrainer(
        vocab_size=10000,
        min_frequency=1,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lexicon, trainer)
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
