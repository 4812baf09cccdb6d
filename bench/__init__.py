"""The benchmark: what a call through the relay costs, beside what else one could use for it.

Start with `__main__`. A case of `cases` starts what it measures (`processes`, `servers`, `chain`),
drives it with `load`, reads what it used from `accounting`, and yields figures; `sampler` finds out
where the time goes. `report` judges and keeps them, `machine` says where they were measured,
`tables` and `plot` show them.
"""
