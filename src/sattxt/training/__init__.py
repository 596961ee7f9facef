"""Training: the stages that make a sattxt model, and the recipe of the bundled one."""
