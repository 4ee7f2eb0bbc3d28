"""AI feedback: questions to a judge or a critic, whoever answers them, and what their answers say."""
