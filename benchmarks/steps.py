"""Length of program.py with each step on the output, in bits.

    python -m benchmarks.steps

The program asks the quickstart's question, stops at a line end and has no prompt and no adapter.
"""

from kilobit.search.programs.postprocess import RULE
from kilobit.search.programs.recipe import Recipe
from kilobit.search.programs.script import script

PLAIN = Recipe(question="Q: {input}\nA:", batch_size=64, max_new_tokens=12, steps_rule=RULE)
STOPS = (("\n",), ("\n\n", "\nQuestion:"))
STEPS = ((), ("last_word",), ("last_number",), ("first_number",), ("lower",))


def main() -> None:
    """Print a row for each list of steps."""
    print(f"{'steps':16}" + "".join(f"{stop!s:>26}" for stop in STOPS))
    for steps in STEPS:
        each = [
            8 * len(script(PLAIN.model_copy(update={"postprocess": steps, "stop": stop})))
            for stop in STOPS
        ]
        print(f"{', '.join(steps) or 'none':16}" + "".join(f"{bits:26,}" for bits in each))


if __name__ == "__main__":
    main()
