"""An attempt at a run in this process, without Ray."""

from kilobit.cluster.driver.attempt import _rebuild
from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.worker.evaluator import RungEvaluator


def search(run: RunFolder) -> None:
    """Do what an attempt does, in this process."""
    plan = check_sweep(run.sweep, run.sweep_folder)
    recorder, state = _rebuild(run, plan)
    (model,), ladder = run.sweep.base_models, run.sweep.rungs.ladder()
    worker = RungEvaluator(
        EvaluatorSetup(
            run.sweep.model_dump_json(),
            str(run.sweep_folder),
            str(run.path),
            model.label,
            "w-0",
            run.attempt,
        )
    )
    waiting = [(c, state.next_rung[c.id]) for c in recorder.pending(state)]
    while True:
        if not waiting:
            proposed = recorder.propose(model.label)
            if proposed is None:
                return
            waiting.append((proposed, recorder.first_rung))
        candidate, rung = waiting.pop(0)
        reply = worker.run_rung(candidate.canonical(), ladder[rung])
        decision = recorder.decide_together(reply.together)[candidate.id, rung]
        if decision.action == "promote":
            waiting.insert(0, (candidate, rung + 1))
