"""`make bench-learning`: the literature's tables of continual learning, through the pipeline itself.

Every row is one fold, `next = retrain(served, new spans)`, made by the command `retrain`; a method is a
change of the deployment's file. `problems` has the data sets and the methods, `fold` makes one result,
`measures` what the literature reads off it, `summary`, `page` and `pictures` make docs/benchmarks.md of
them, and `cost` measures what a run costs as versions pile up.
"""
