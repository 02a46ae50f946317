"""How good an answer is: accuracy, what is attainable, what it leaves in the CMB."""
