"""System C: keyframes, interpolation between them, and a refiner that corrects it in one step."""
