"""Loading models and naming their modules; the only room that knows architectures."""
