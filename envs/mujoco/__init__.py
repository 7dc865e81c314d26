"""Whole windows of Gymnasium's MuJoCo environments on MuJoCo's own batch engine.

`task` is the face towards the estimators, `make` and `check` decide whether an environment runs
natively, `engine` keeps the rows and the threads, `kernel` the compiled loop, `fields` and
`layout` the way into MuJoCo's data, `numerics` NumPy's arithmetic; the other modules hold one
family of environments each.
"""
