"""Processes: programs that run beside this one: started so that they do not outlive it, asked whether they are ready, kept running."""
