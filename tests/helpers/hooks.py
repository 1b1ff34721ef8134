"""Callbacks of scikit-learn."""

from __future__ import annotations


class Hook:
    """A callback that keeps the model of every iteration, and may stop the fit."""

    def __init__(self, stop_after=None):
        self.models, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        if context.task_name == "iteration":
            self.models.append(fitted_estimator)
        return len(self.models) == self.stop_after
