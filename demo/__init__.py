"""What the demonstration and the tests need, and a Space does not: a Hub on this machine."""
