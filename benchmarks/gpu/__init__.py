"""What the GPU path gives and costs: correctness first, then speed against the ceilings of the same machine."""
