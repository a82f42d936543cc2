"""What the benchmarks start and measure with: processes, a control plane, an agent, a load, bare counterparts."""
