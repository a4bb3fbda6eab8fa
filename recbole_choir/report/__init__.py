"""The report: one page of tables and plots, made from a folder of records alone."""
