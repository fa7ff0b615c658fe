"""Pick, place, push and stack on the simulated WidowX: scenes, success, teacher, environment."""
