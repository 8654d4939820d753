"""Read and change the threads of a remote graph."""
