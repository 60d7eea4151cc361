import random

from kilobit.evaluators.tasks.miniature import word_problems


def test_every_answer_follows_from_its_steps() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        problem = word_problems.problem(rng)
        value = eval(problem.steps, {"__builtins__": {}})
        assert value == problem.answer
        assert problem.answer >= 0
