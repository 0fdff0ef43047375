"""What starts the jobs of runs: a process on this machine, Ray Jobs, or KubeRay; one behaviour for all."""
