"""What would I gain: a team's own logged impressions, scored by the model, against the order that was shown.

run         from a file to a comparison; read first
item_cells  how the cells of a column name the items that were shown: one, a list, a list with clicks
role        what a column may be: user, item, time, ...
clicks      the column that says what was clicked
columns     the columns of a file of impressions, by what they hold
reading     a file of impressions as requests
scoring     what the service would have scored each request with, at its moment
comparison  both orders on the same clicks, with intervals over users
cautions    what was left out, and what weakens the comparison
report      the comparison in words, and as a document
"""
