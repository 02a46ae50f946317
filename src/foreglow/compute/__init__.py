"""How work is done: device, random numbers, training, processes, workers, precision, cpu."""
