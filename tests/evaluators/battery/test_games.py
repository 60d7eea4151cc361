from kilobit.evaluators.battery.games import REWARD, RULES, STORIES, GameEvaluator, chosen
from tests.support.judges.saying import Saying, mean


def test_a_game_counts_gains_and_broken_rules() -> None:
    def greedy(question: str) -> str:
        scene = question.rsplit("\n", 3)[-3]
        choices = next(c for s in STORIES for text, c in s.scenes if text == scene)
        return f" {1 + max(range(len(choices)), key=lambda i: choices[i].coins)}."

    def kind(question: str) -> str:
        scene = question.rsplit("\n", 3)[-3]
        choices = next(c for s in STORIES for text, c in s.scenes if text == scene)
        return str(1 + next(i for i, choice in enumerate(choices) if not choice.breaks))

    rows = GameEvaluator().evaluate(Saying(greedy))
    assert (mean(rows, REWARD), mean(rows, RULES)) == (1.0, 0.0)
    rows = GameEvaluator().evaluate(Saying(kind))
    assert 0 < mean(rows, REWARD) < 1
    assert mean(rows, RULES) == 1.0
    waiting = Saying(lambda _: "hm")
    rows = GameEvaluator().evaluate(waiting)
    assert (mean(rows, REWARD), mean(rows, RULES)) == (0.0, 1.0)
    # What was done stands in what is asked next.
    assert sum("You wait." in question for question in waiting.asked) == 5
    assert len(rows) == 2 * sum(len(story.scenes) for story in STORIES)
    choices = STORIES[0].scenes[0][1]
    assert chosen("number 2!", choices) is choices[1]
    assert chosen("0", choices) is chosen("7", choices) is chosen("", choices) is None
