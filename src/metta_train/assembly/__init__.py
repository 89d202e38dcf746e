"""The one place that builds env, policy and trainer from a RunConfig.

run.py has `train`; rehearsal.py, evaluation.py and policy.py have what else is asked for. Below them: design.py decides
everything, starting_point.py says what a training goes on from, trainer.py joins the parts, run_reports.py tells of it.
"""
