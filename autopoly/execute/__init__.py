"""Run shards of work in this process or on Ray, without losing a row; what the work is, a job says."""
