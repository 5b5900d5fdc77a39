"""Examples: training graph neural networks through the graph service, on graphs that you bring. See README.md."""
