"""What the scripts share; `compat` and `errors` alone are also for nets and datasets."""
