"""The tracker: runs by key in MLflow. The only place that knows MLflow.

A job's calls are put in order into a spool on the local disk (`spool`, `hub`), a process of its own sends the spool
(`sender`, `delivery`, `client`), and `mlflow_reporter` is what a job holds in its hand. `names` is the list of every
key of a metric or tag. Nothing here imports MLflow into the process of a job.
"""
