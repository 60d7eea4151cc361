from kilobit.cluster.driver.check import bound_bits
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate, Prompt
from tests.support.recipes import adapter_spec


def test_a_prompt_is_bounded_by_its_best_codec_and_numbers_by_16_bits_each() -> None:
    task = load_miniature("numbers", 0)
    bare = Candidate(task=task.name, model="m")
    assert bound_bits(bare, task, None) == 0
    prompt = bare.model_copy(update={"prompt": Prompt(instruction="Number:")})
    assert bound_bits(prompt, task, None) == 8 * len("Number:\n")
    both = prompt.model_copy(update={"adapter": adapter_spec("tinylora")})
    assert bound_bits(both, task, {}) == 8 * len("Number:\n") + 16 * 13
    assert bound_bits(both, task, None) is None
