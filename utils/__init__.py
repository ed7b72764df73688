"""The ground, modules that all may import, and the rooms: training, inference, evaluation, drawing, doctor, studies."""
