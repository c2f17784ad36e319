"""Plan: the execution of one layer as standard operators; numpy only, no framework."""

from edgekron.plan.contraction import group_digits, least_macs
from edgekron.plan.convolution import Convolution
from edgekron.plan.enumerate import best_plan, dense_plan, plans
from edgekron.plan.evaluate import evaluate
from edgekron.plan.steps import Layout, Plan

__all__ = [
    "Convolution",
    "Layout",
    "Plan",
    "best_plan",
    "dense_plan",
    "evaluate",
    "group_digits",
    "least_macs",
    "plans",
]
