"""What is learnt at each stage of training: which batch a step draws, and the losses on it."""
