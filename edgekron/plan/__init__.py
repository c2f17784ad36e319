"""Plan: the execution of one layer as standard operators; numpy only, no framework."""

from edgekron.plan.contraction import group_digits, least_macs
from edgekron.plan.convolution import Convolution
from edgekron.plan.enumerate import best_plan, best_plans, dense_plan, plans
from edgekron.plan.evaluate import evaluate, evaluate_steps
from edgekron.plan.figures import PlanFigures, StepFigures, figures
from edgekron.plan.steps import Layout, Plan

__all__ = [
    "Convolution",
    "Layout",
    "Plan",
    "PlanFigures",
    "StepFigures",
    "best_plan",
    "best_plans",
    "dense_plan",
    "evaluate",
    "evaluate_steps",
    "figures",
    "group_digits",
    "least_macs",
    "plans",
]
