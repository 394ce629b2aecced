"""Each flow as Prefect runs it: the work of a plain function, tried again, shown and named.

`prefect.yaml`, `skelstream serve` and the commands typed by hand start these.
"""
