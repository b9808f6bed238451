import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import clvq_lens as cl
from benchmarks import smollm2
from clvq_lens.concepts.asking import Question
from clvq_lens.concepts.detection import detection
from clvq_lens.errors import ConfigError, TextTooLongError, UnsupportedHostError
from clvq_lens.judges.local_model import LocalModel
from tests.concepts.test_detection import TABLE

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|endoftext|>{% endfor %}[ok]"


@pytest.fixture(scope="module")
def tokenizer(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/gpt2")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def random_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    options = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(seed)
    config = LlamaConfig(**options, **heads, vocab_size=50_257, eos_token_id=50_256, **changes)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return random_llama()


def test_it_names_codes_and_judges_names_and_says_the_same_again(model, tokenizer, tmp_path):
    judge = cl.judges.hf(model, tokenizer, cache=tmp_path)
    named = TABLE.named(judge)
    result = detection(named, judge, n_contexts=4)
    assert result.codes == (0, 1, 2, 3)
    uncached = cl.judges.hf(model, tokenizer)
    assert TABLE.named(uncached).names() == named.names()
    assert len(set(named.names().values())) > 1  # prompts matter, even to random weights
    again = cl.judges.hf(model, tokenizer, cache=tmp_path)
    assert detection(TABLE.named(again), again, n_contexts=4) == result
    assert again.n_asked == 0


def test_answers_do_not_depend_on_what_else_is_in_the_batch(model, tokenizer):
    prompts = ["short", "a longer one, which pads the first", "x " * 40]
    together = LocalModel(model, tokenizer, 8, None).answer(prompts, 6)
    alone = [LocalModel(model, tokenizer, 8, None).answer([prompt], 6)[0] for prompt in prompts]
    assert together == alone


def test_an_answer_is_what_the_model_would_go_on_with(model, tokenizer):
    """Against a loop that takes the likeliest token each time."""
    [answer] = LocalModel(model, tokenizer, 8, None).answer(["What is it?"], 5)
    tokens = tokenizer("[user]What is it?<|endoftext|>[ok]", return_tensors="pt")["input_ids"]
    n_prompt = tokens.shape[1]
    with torch.no_grad():
        for _ in range(5):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert answer == tokenizer.decode(tokens[0, n_prompt:], skip_special_tokens=True)


def test_special_tokens_in_texts_do_not_end_the_question(model, tokenizer):
    local = LocalModel(model, tokenizer, 8, None)
    tokens = local._tokens("a <|endoftext|> in a text")
    assert tokens.count(tokenizer.eos_token_id) == 1  # that of the template


def test_the_model_is_left_as_it_was(model, tokenizer):
    model.train()
    config = json.dumps(model.generation_config.to_dict(), default=str)
    side, pad = tokenizer.padding_side, tokenizer.pad_token
    try:
        TABLE.named(cl.judges.hf(model, tokenizer))
        assert model.training
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert json.dumps(model.generation_config.to_dict(), default=str) == config
    assert (tokenizer.padding_side, tokenizer.pad_token) == (side, pad)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_would_sample_answers_greedily(tokenizer):
    sampling = random_llama()
    sampling.generation_config.do_sample = True
    sampling.generation_config.temperature = 5.0
    expected = LocalModel(random_llama(), tokenizer, 8, None).answer(["Well?"], 6)
    sampling.generation_config.suppress_tokens = tokenizer(expected[0])["input_ids"]
    assert LocalModel(sampling, tokenizer, 8, None).answer(["Well?"], 6) == expected


def test_other_weights_other_answers_on_disk(tokenizer, tmp_path):
    TABLE.named(cl.judges.hf(random_llama(), tokenizer, cache=tmp_path))
    same = cl.judges.hf(random_llama(), tokenizer, cache=tmp_path)
    TABLE.named(same)
    assert same.n_asked == 0
    tuned = random_llama()
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    in_half = random_llama().to(torch.bfloat16)
    same_numbers = random_llama().to(torch.bfloat16).to(torch.float32)  # and finer arithmetic
    for changed in (random_llama(seed=1), tuned, in_half, same_numbers):
        other = cl.judges.hf(changed, tokenizer, cache=tmp_path)
        TABLE.named(other)
        assert other.n_asked == 4


def test_the_most_tokens_can_be_set(model, tokenizer):
    judge = cl.judges.hf(model, tokenizer, max_tokens=1)
    [[verdict]] = judge.judge_names([Question("cat", ("<<cat>>",))], progress=False)
    assert verdict is None  # one token of random weights
    short, long = (
        LocalModel(model, tokenizer, 8, None).answer(["What is it?"], n)[0] for n in (1, 9)
    )
    assert len(short) < len(long)
    assert long.startswith(short)


# ---- what is refused -----------------------------------------------------------------------------


def test_a_model_that_cannot_answer_is_refused(tokenizer, as_for_a_user):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    encoder = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=30))
    with pytest.raises(UnsupportedHostError, match=r"BertModel cannot generate text\. Load"):
        cl.judges.hf(encoder, tokenizer)
    with pytest.raises(UnsupportedHostError, match="str is not a Hugging Face model"):
        cl.judges.hf("gpt2", tokenizer)


def test_a_tokenizer_without_a_chat_template_is_refused(model, tokenizer, shared):
    plain = AutoTokenizer.from_pretrained(shared / "tokenizers/gpt2")
    with pytest.raises(ConfigError, match=r"no chat template.*Pass an instruction-tuned model"):
        cl.judges.hf(model, plain)
    with pytest.raises(ConfigError, match=r"tokenizer is of type NoneType\. Pass the one of"):
        cl.judges.hf(model, None)


def test_impossible_options_are_refused(model, tokenizer):
    for option in ("batch_size", "max_tokens"):
        with pytest.raises(ConfigError, match=f"{option} is 0"):
            cl.judges.hf(model, tokenizer, **{option: 0})


def test_a_prompt_beyond_the_context_is_refused(tokenizer):
    short = random_llama(max_position_embeddings=64)
    with pytest.raises(TextTooLongError, match=r"take \d+ tokens, and .* reads 64 at most"):
        TABLE.named(cl.judges.hf(short, tokenizer))


def test_a_model_that_no_token_ends_is_refused(model, shared, tmp_path):
    endless = AutoTokenizer.from_pretrained(shared / "tokenizers/gpt2")
    endless.chat_template = TEMPLATE
    endless.eos_token = None
    unending = random_llama()
    unending.generation_config.eos_token_id = None
    with pytest.raises(ConfigError, match=r"names a token that ends.*Set tokenizer\.eos_token"):
        TABLE.named(cl.judges.hf(unending, endless))
    endless.eos_token = "<|endoftext|>"
    assert len(TABLE.named(cl.judges.hf(unending, endless))) == 4


# ---- a real one, which is weak -------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm() -> tuple[object, object]:
    try:
        folder = smollm2.unpacked()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    return (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.slow
def test_smollm2_speaks_and_says_yes_or_no(smollm, tmp_path):
    judge = cl.judges.hf(*smollm, cache=tmp_path)
    named = TABLE.named(judge)
    assert all(named.names().values())
    question = Question("an animal", ("The <<cat>> slept.", "I <<walked>> home."))
    [verdicts] = judge.judge_names([question], progress=False)
    assert None not in verdicts
