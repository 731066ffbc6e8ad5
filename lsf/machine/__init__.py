"""What a program asks of the machine it runs on: files, threads, memory, devices, compilers, tracing."""
