"""`retrain init`: from a file to a deployment that runs.

`profile` reads the files once, `target` finds the task, `roles` what each column is to the model, `sizes`
the numbers that depend on how much data there is, `schema` and `drift` what TFDV makes of it, `document`
writes the YAML; `command` puts them together and the files into place.
"""
