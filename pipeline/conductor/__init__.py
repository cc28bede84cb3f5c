"""Order the phases, start each as a process, tell where a run stands."""
