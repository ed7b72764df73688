"""The ground, modules that all others may import, and the rooms: training, inference, evaluation, drawing, studies."""
