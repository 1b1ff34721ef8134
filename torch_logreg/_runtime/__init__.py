"""Machines: devices, limits, threads, processes, and what the surrounding program has switched on."""
