"""A challenger earns production: it gets a growing part of the requests, until it is champion or turned back.

`controller` is the process, `nginx` the router before the two pools of servers, `evidence` what is read of
its access log, of the prediction log and of the labels. What is decided, and by which tests, is in `decide`
and `sequential`, which read and write nothing.
"""
